"""Between busy and gone: the engine sleeps, its pod stays, and a request wakes it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from e2e.lab import SYSTEM, sim_deployment
from e2e.scenarios.clients import ask, stream

if TYPE_CHECKING:
    from e2e.lab import Lab


async def test_an_idle_model_sleeps_and_a_request_wakes_it(lab: Lab) -> None:
    await lab.apply(sleepy(lab, "nap", minReplicas=1, maxReplicas=1, sleep={"after": "5s"}))
    pod = await until_asleep(lab, "nap")
    assert (await lab.llm("nap"))["status"]["asleepReplicas"] == 1

    # Whoever takes over finds it asleep, and lets it sleep.
    await asyncio.to_thread(lab.installation.kubectl, "-n", SYSTEM, "rollout", "restart", "deployment/lull-operator")
    await asyncio.to_thread(
        lab.installation.kubectl, "-n", SYSTEM, "rollout", "status", "deployment/lull-operator", "--timeout=180s"
    )
    assert await lab.is_asleep(pod)

    answers = await asyncio.gather(*(ask(lab, "nap") for _ in range(10)), stream(lab, "nap"))

    assert len(answers) == 11
    assert await until_asleep(lab, "nap") == pod
    description = await lab.kubectl("describe", "llm", "nap")
    assert "Woken" in description


async def test_weights_that_were_dropped_are_read_again(lab: Lab) -> None:
    await lab.apply(sleepy(lab, "deep", minReplicas=2, sleep={"level": 2, "after": "5s"}))
    await until_asleep(lab, "deep")

    answer = await ask(lab, "deep")

    assert answer.choices[0].message.content


async def test_what_sleeps_for_long_goes(lab: Lab) -> None:
    await lab.apply(sleepy(lab, "gone", sleep={"after": "5s"}, idleAfter="60s"))
    await ask(lab, "gone")
    await until_asleep(lab, "gone")

    await lab.until_replicas("gone", 0)

    await lab.until_condition("gone", "Ready", "True", "ScaledToZero")
    await ask(lab, "gone")


def sleepy(lab: Lab, name: str, **scaling: Any) -> dict[str, Any]:
    return sim_deployment(lab.installation, name, scaling=scaling)


async def until_asleep(lab: Lab, name: str) -> str:
    """Wait until status and every engine say that they sleep; the first pod."""
    await lab.until_condition(name, "Ready", "True", "Asleep")

    async def check() -> str:
        pods = [pod["metadata"]["name"] for pod in await lab.pods(name)]
        return pods[0] if all([await lab.is_asleep(pod) for pod in pods]) else ""

    found: str = await lab.until(f"{name}: every engine sleeps", check)
    return found
