"""No spelling of a request reaches an engine but the allowed ones, and none breaks the gateway."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from lull.wire.openai import INFERENCE_PATHS
from tests.hostile.engines import WHOLE, RawEngine, saying
from tests.hostile.raw import PATIENCE, say
from tests.hostile.spellings import Attempt, attempts

if TYPE_CHECKING:
    from tests.hostile.raw import Heard

AT_ONCE = 64


async def attempt_all(
    port: int, tried: list[Attempt], *, at_once: int = AT_ONCE, patience: float = PATIENCE
) -> list[tuple[Attempt, Heard]]:
    slots = asyncio.Semaphore(at_once)

    async def attempt(each: Attempt) -> tuple[Attempt, Heard]:
        async with slots:
            return each, await say(port, each.request, patience=patience)

    return await asyncio.gather(*map(attempt, tried))


def find_wrong(heard: list[tuple[Attempt, Heard]]) -> list[str]:
    """What is neither a refusal, nor a close, nor the answer to an allowed request."""
    return [
        f"{each.name}: {answer.statuses} {'closed' if answer.closed else 'open'} {answer.malformed}"
        for each, answer in heard
        if answer.malformed
        or not (answer.answers or answer.closed)
        or not all(400 <= status < 500 or (each.enters and status in {100, 200}) for status in answer.statuses)
        or any("x-evil" in one.headers for one in answer.answers)
    ]


async def test_only_allowed_paths_reach_an_engine(running: Any) -> None:
    async with running(body_seconds=0.5, head_seconds=0.5) as world, RawEngine(saying(WHOLE)) as engine:
        world.add_model()
        world.put_pod(engine, pod="pod-1")
        await world.wait_listed()

        heard = await attempt_all(world.settings.port, attempts("llama"))

        assert "\n".join(find_wrong(heard)) == ""
        assert {(each.method, each.path) for each in engine.arrived} <= {("POST", path) for path in INFERENCE_PATHS}
