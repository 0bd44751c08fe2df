"""0 → 1: a request wakes a model that nothing runs for, and is never lost on the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from e2e.demo.story import hub, real_deployment
from e2e.lab import open_lab, sim_deployment
from e2e.scenarios.clients import ask, stream
from e2e.scenarios.conftest import HUB_NAMESPACE

if TYPE_CHECKING:
    from e2e.lab import Lab


async def test_a_request_wakes_real_vllm_and_is_answered(lab: Lab) -> None:
    async with open_lab(lab.installation, HUB_NAMESPACE) as hub_lab:
        await hub_lab.apply(*hub(lab.installation.images["engine-cpu"]))
        await hub_lab.kubectl("wait", "--for=condition=Ready", "pod/hub", "--timeout=180s")
        await lab.apply(real_deployment(lab.installation.images["engine-cpu"], "waking"))
        await lab.until_condition("waking", "Ready", "True", "ScaledToZero")

        answer = await ask(lab, "waking", tokens=12)

        assert answer.choices[0].message.content

        async def measured() -> set[str]:
            return set((await lab.llm("waking"))["status"]["coldStart"])

        stages = await lab.until("the cold start is in status", measured)
        assert stages == {"at", "scheduled", "image", "weights", "warmUp", "total"}
        assert await stream(lab, "waking", tokens=6)
        await lab.kubectl("delete", "llm", "waking", "--wait=true")


async def test_ten_clients_wake_the_same_model_with_one_pod(lab: Lab) -> None:
    await lab.apply(
        sim_deployment(lab.installation, "ten", sim={"startup": 4}, scaling={"target": {"queueLength": 20}})
    )
    await lab.until_condition("ten", "Ready", "True", "ScaledToZero")

    answers = await asyncio.gather(*(ask(lab, "ten") for _ in range(10)))

    assert len(answers) == 10
    assert len(await lab.pods("ten")) == 1


async def test_a_wake_up_outlives_the_client_that_caused_it(lab: Lab) -> None:
    # Its engine takes long enough that nothing answers before the client has left.
    await lab.apply(sim_deployment(lab.installation, "left", sim={"startup": 8}, scaling={"idleAfter": "60s"}))
    await lab.until_condition("left", "Ready", "True", "ScaledToZero")

    request = asyncio.create_task(ask(lab, "left"))
    await lab.until_asked("left", 1)
    request.cancel()

    await lab.until_replicas("left", 1)


async def test_kubectl_tells_the_truth_all_along(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "truth", sim={"startup": 10}, scaling={"idleAfter": "60s"}))
    await lab.kubectl("wait", "--for=condition=Ready", "llm/truth", "--timeout=240s")
    row = await lab.kubectl("get", "llm", "truth", "--no-headers")
    assert row.split()[:4] == ["truth", "file:///opt/models/sim", "True", "0/0"]
    assert "ScaledToZero" in row

    request = asyncio.create_task(ask(lab, "truth"))
    await lab.until_condition("truth", "Ready", "False", "Starting")
    assert "0/1" in await lab.kubectl("get", "llm", "truth", "--no-headers")
    await lab.kubectl("wait", "--for=condition=Ready", "llm/truth", "--timeout=240s")
    await lab.until_condition("truth", "Ready", "True", "Serving")

    await request
    description = await lab.kubectl("describe", "llm", "truth")
    assert "Activated" in description
