"""1 → N → 1 → 0, one model or two."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from e2e.lab import sim_deployment
from e2e.scenarios.clients import ask, load

if TYPE_CHECKING:
    from e2e.lab import Lab

BUSY = {"target": {"inFlight": 3}, "maxReplicas": 3}


async def test_scales_up_under_load_down_after_it_and_to_zero_when_idle(lab: Lab) -> None:
    # Idle for long enough that one replica can be seen between three and none.
    await lab.apply(sim_deployment(lab.installation, "wave", scaling={**BUSY, "idleAfter": "20s"}))
    await lab.until_condition("wave", "Ready", "True", "ScaledToZero")

    async with load(lab, "wave", clients=9) as outcome:
        await lab.until_replicas("wave", 3)
        await asyncio.sleep(3)

    await lab.until_replicas("wave", 1)
    await lab.until_condition("wave", "Ready", "True", "ScaledToZero")
    assert outcome.failures == []
    assert outcome.broken == []
    assert outcome.answered > 9
    reasons = [record["reason"] for record in (await lab.llm("wave"))["status"]["decisions"]]
    assert reasons[0] == "Idle"
    assert reasons[-1] == "Activated"


async def test_two_models_scale_side_by_side(lab: Lab) -> None:
    await lab.apply(
        sim_deployment(lab.installation, "busy", scaling=BUSY), sim_deployment(lab.installation, "quiet", scaling=BUSY)
    )
    await lab.until_condition("busy", "Ready", "True", "ScaledToZero")
    await lab.until_condition("quiet", "Ready", "True", "ScaledToZero")

    async with load(lab, "busy", clients=7) as outcome:
        await lab.until_replicas("busy", 3)
        assert await lab.pods("quiet") == []
        answer = await ask(lab, "quiet")
        assert answer.model == "quiet"
        await lab.until_replicas("quiet", 1)

    assert outcome.failures == []
    assert {model.id for model in (await lab.client.models.list()).data} >= {"busy", "quiet"}


async def test_a_person_may_set_the_replicas(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "manual"))
    await lab.until_condition("manual", "Ready", "True", "ScaledToZero")

    await lab.kubectl("scale", "llm/manual", "--replicas=2")

    await lab.until_replicas("manual", 2)
    await lab.until_condition("manual", "ScalingActive", "False", "Manual")
    await lab.kubectl("scale", "llm/manual", "--replicas=0")
    await lab.until_condition("manual", "Ready", "True", "ScaledToZero")


async def test_a_spec_change_rolls_without_losing_a_request(lab: Lab) -> None:
    spec = sim_deployment(lab.installation, "rolled", scaling={"minReplicas": 1, "target": {"inFlight": 50}})
    await lab.apply(spec)
    await lab.until_replicas("rolled", 1)
    before = {pod["metadata"]["uid"] for pod in await lab.pods("rolled")}

    async with load(lab, "rolled", clients=3) as outcome:
        spec["spec"]["engine"]["maxModelLen"] = 1024
        await lab.apply(spec)

        async def replaced() -> bool:
            now = {pod["metadata"]["uid"] for pod in await lab.pods("rolled")}
            return bool(now) and not now & before

        await lab.until("the old pod is gone", replaced)

    assert outcome.failures == []
    assert outcome.broken == []


async def test_pods_are_replaced_in_place_where_no_accelerator_is_free(lab: Lab) -> None:
    """Three replicas take all 24 GPUs of the cluster, so that none is left for a surge."""
    spec = sim_deployment(
        lab.installation,
        "full",
        accelerator={"vendor": "Nvidia"},
        parallelism={"tensor": 8},
        scaling={"minReplicas": 3, "maxReplicas": 3},
    )
    await lab.apply(spec)
    await lab.until_replicas("full", 3)
    before = {pod["metadata"]["uid"] for pod in await lab.pods("full")}

    async with load(lab, "full", clients=3) as outcome:
        spec["spec"]["engine"]["maxModelLen"] = 1024
        await lab.apply(spec)

        async def replaced() -> bool:
            pods = await lab.pods("full")
            return len(pods) == 3 and not {pod["metadata"]["uid"] for pod in pods} & before

        await lab.until("all three are new", replaced)
        await lab.until_replicas("full", 3)

    assert outcome.failures == []
    assert outcome.broken == []
    # Once it is done, the next rollout may surge again.
    await lab.until_condition("full", "Reconciling", "False", "Settled")
    strategy = await lab.kubectl("get", "deployment", "full-default", "-o", "jsonpath={.spec.strategy.rollingUpdate}")
    assert strategy == '{"maxSurge":1,"maxUnavailable":0}'
