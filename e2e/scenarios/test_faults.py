"""What breaks in a cluster, and what a client notices of it: nothing, or a well-formed error."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from e2e.lab import SYSTEM, is_ready, sim_deployment
from e2e.scenarios.clients import ask, load, stream
from lull.api import names
from lull.doors.kube import PODS

if TYPE_CHECKING:
    from e2e.lab import Lab

STEADY = {"minReplicas": 2, "maxReplicas": 2}
RATE = 200
"""Requests a second, from so many clients at most, to engines that are quick enough for them."""
CLIENTS = 64
QUICK: dict[str, Any] = {"sim": {"decode_tps": 200}, "engine": {"maxNumSeqs": 32}}


async def test_operator_killed_in_the_middle_of_a_cold_start(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "orphan", sim={"startup": 8}))
    await lab.until_condition("orphan", "Ready", "True", "ScaledToZero")

    requests = [asyncio.create_task(ask(lab, "orphan")) for _ in range(5)]
    await lab.until_replicas("orphan", 1, ready=False)
    await lab.kill("operator")
    answers = await asyncio.gather(*requests)

    assert len(answers) == 5
    await lab.until_condition("orphan", "Ready", "True")


async def test_operator_dead_when_the_request_comes(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "late"))
    await lab.until_condition("late", "Ready", "True", "ScaledToZero")

    await lab.kill("operator")
    answer = await ask(lab, "late")

    assert answer.choices[0].message.content


async def test_gateway_restarted_under_load(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "door", **QUICK, scaling=STEADY))
    await lab.until_replicas("door", 2)

    async with load(lab, "door", clients=CLIENTS, tokens=4, rate=RATE) as outcome:
        await asyncio.to_thread(lab.installation.kubectl, "-n", SYSTEM, "rollout", "restart", "deployment/lull-gateway")
        await asyncio.to_thread(
            lab.installation.kubectl, "-n", SYSTEM, "rollout", "status", "deployment/lull-gateway", "--timeout=180s"
        )
        await asyncio.sleep(8)

    print(outcome)
    assert outcome.failures == []
    assert outcome.broken == []
    assert outcome.answered > 100


async def test_engine_pod_killed_under_load(lab: Lab) -> None:
    slow = {**QUICK, "sim": {"decode_tps": 40}}
    await lab.apply(sim_deployment(lab.installation, "victim", **slow, scaling=STEADY))
    await lab.until_replicas("victim", 2)

    async with load(lab, "victim", clients=CLIENTS, tokens=8, rate=RATE) as outcome:
        await asyncio.sleep(3)
        pod = (await lab.pods("victim"))[0]["metadata"]["name"]
        await lab.kubectl("delete", "pod", pod, "--force", "--grace-period=0")
        await lab.until_replicas("victim", 2)
        await asyncio.sleep(3)

    print(outcome)
    assert outcome.failures == []
    assert len(outcome.broken) <= CLIENTS / 2
    assert outcome.answered > 100


async def test_streams_whose_engine_is_killed_go_on_unbroken_where_that_is_asked_for(lab: Lab) -> None:
    await lab.apply(
        sim_deployment(
            lab.installation,
            "unbroken",
            sim={"decode_tps": 20},
            engine={"maxNumSeqs": 16},
            requests={"continueStreams": True},
            scaling=STEADY,
        )
    )
    await lab.until_replicas("unbroken", 2)
    whole = await stream(lab, "unbroken", tokens=120)

    streams = [asyncio.create_task(stream(lab, "unbroken", tokens=120)) for _ in range(12)]

    async def find_busy() -> str | None:
        pods = [pod["metadata"]["name"] for pod in await lab.pods("unbroken")]
        running = [await lab.running(pod) for pod in pods]
        return pods[running.index(max(running))] if sum(running) == len(streams) else None

    victim = await lab.until("all streams are under way", find_busy)
    await asyncio.sleep(1)
    await lab.kubectl("delete", "pod", victim, "--force", "--grace-period=0")

    # Each is checked to have as many tokens as were asked for, too.
    assert await asyncio.gather(*streams) == [whole] * len(streams)
    assert whole.split() == [f"tok{number}" for number in range(120)]


async def test_an_engine_that_fails_in_every_way_under_load(lab: Lab) -> None:
    """And nobody there to mend anything: the operator is dead as well."""
    await lab.apply(sim_deployment(lab.installation, "sick", **QUICK, scaling=STEADY))
    await lab.until_replicas("sick", 2)
    sick = (await lab.pods("sick"))[0]["metadata"]["name"]

    async with load(lab, "sick", clients=CLIENTS, tokens=4, rate=RATE) as outcome:
        await lab.kill("operator")
        for failing, mended in (
            ({"fail_requests": 1_000_000}, {"fail_requests": 0}),
            ({"garbage": True}, {"garbage": False}),
        ):
            await lab.sim(sick, **failing)
            await asyncio.sleep(3)
            await lab.sim(sick, **mended)
        assert outcome.broken == []
        await lab.sim(sick, torn_after_tokens=1)
        await asyncio.sleep(3)
        await lab.sim(sick, torn_after_tokens=-1, hang=True)
        await asyncio.sleep(3)
        # Frozen engines close nothing; what frees their requests is that their pod is gone.
        await lab.kubectl("delete", "pod", sick, "--force", "--grace-period=0")
        await asyncio.sleep(3)

    print(outcome)
    assert outcome.failures == []
    assert outcome.answered > 100


async def test_engine_that_dies_before_the_first_byte_costs_no_request(lab: Lab) -> None:
    await lab.apply(
        sim_deployment(lab.installation, "silent", sim={"prefill_tps": 1}, scaling={"minReplicas": 1, "maxReplicas": 1})
    )
    await lab.until_replicas("silent", 1)
    before = (await lab.pods("silent"))[0]["metadata"]["name"]

    request = asyncio.create_task(ask(lab, "silent", tokens=2))
    await lab.until_asked("silent", 1)
    await lab.kubectl("delete", "pod", before, "--force", "--grace-period=0")

    async def replaced() -> bool:
        pods = await lab.pods("silent")
        return [pod["metadata"]["name"] != before for pod in pods if is_ready(pod)] == [True]

    await lab.until("another engine is ready", replaced)
    assert (await request).usage


async def test_scale_down_lets_streams_finish(lab: Lab) -> None:
    await lab.apply(
        sim_deployment(
            lab.installation,
            "drained",
            sim={"decode_tps": 10},
            replicas=2,
            rollout={"drain": "60s"},
        )
    )
    await lab.until_replicas("drained", 2)

    streams = [asyncio.create_task(ask(lab, "drained", tokens=60)) for _ in range(4)]
    await lab.until_asked("drained", 4)
    await lab.kubectl("scale", "llm/drained", "--replicas=1")

    assert len(await asyncio.gather(*streams)) == 4
    await lab.until_replicas("drained", 1)


async def test_api_server_gone_for_two_minutes(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "blind", **QUICK, scaling={"minReplicas": 1, "maxReplicas": 2}))
    await lab.until_replicas("blind", 1)

    async with load(lab, "blind", clients=CLIENTS, tokens=4, rate=RATE) as outcome:
        with lab.installation.cluster.api_server_stopped():
            await asyncio.sleep(120)
        answered = outcome.answered

    print(outcome)
    assert answered > 100
    assert outcome.failures == []
    assert outcome.broken == []
    await lab.apply(sim_deployment(lab.installation, "after"))
    await lab.until_condition("after", "Ready", "True", "ScaledToZero")
    assert await ask(lab, "after")


async def test_a_lost_node_costs_no_request_before_its_first_byte(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "spotty", **QUICK, scaling={"minReplicas": 6, "maxReplicas": 6}))
    await lab.until_replicas("spotty", 6)
    gateways = await lab.kube.list(PODS, namespace=SYSTEM, labels=f"{names.LABEL_COMPONENT}=gateway")
    engines = {pod["spec"]["nodeName"] for pod in await lab.pods("spotty")}
    # A client's own connection dies with its gateway's node; that is not ours to hide.
    node = min(engines - {pod["spec"]["nodeName"] for pod in gateways.items})

    try:
        async with load(lab, "spotty", clients=CLIENTS, tokens=4, rate=RATE) as outcome:
            await asyncio.sleep(2)
            await asyncio.to_thread(lab.installation.cluster.stop_node, node)
            await asyncio.sleep(20)
    finally:
        await asyncio.to_thread(lab.installation.cluster.start_node, node)

    print(outcome)
    assert outcome.failures == []
    assert outcome.answered > 100
    await asyncio.to_thread(lab.installation.kubectl, "wait", "--for=condition=Ready", f"node/{node}", "--timeout=240s")
    await lab.until_replicas("spotty", 6)
