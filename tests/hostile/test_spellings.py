"""No spelling of a request reaches an engine but the allowed ones, and none breaks the gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lull.wire.openai import INFERENCE_PATHS
from tests.hostile.engines import WHOLE, RawEngine, saying
from tests.hostile.raw import PATIENCE, say
from tests.hostile.spellings import Attempt, attempts, chat, post
from tests.hostile.test_crowd import gateway_in_front_of, until_listening

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


async def test_without_a_key_nothing_reaches_an_engine(tmp_path: Path) -> None:
    digest = "5" * 64
    keys = f"keys: {{entries: {{team-a: {{sha256: '{digest}'}}}}}}\n"
    values = (
        *(b"", b"Bearer", b"Bearer ", b"bearer  ", b"Basic dGVhbS1hOg==", b"Bearer null", b"Bearer undefined"),
        *(
            b"Bearer llmk_team-a_",
            b"Bearer llmk_team-a_" + b"a" * 22,
            b"Bearer llmk__",
            b"llmk_team-a_x",
            b"Bearer \xff\xfe",
        ),
        *(
            b"Bearer " + digest.encode(),
            b"Bearer llmk_team-a_" + digest.encode(),
            b"Bearer " + b"a" * 10_000,
            b"Negotiate x",
        ),
        *(
            b"Bearer llmk_team-a_x, Bearer y",
            b"Bearer llmk_../team-a_x",
            b"Bearer llmk_%74eam-a_x",
            b"AWS4-HMAC-SHA256 x",
        ),
    )
    fields = (b"Authorization", b"x-api-key", b"api-key", b"Proxy-Authorization", b"X-Forwarded-User", b"Cookie")
    bearing = [
        Attempt(f"{field.decode()}: {value[:40]!r}", post(chat("llama"), field + b": " + value))
        for field in fields
        for value in values
    ]
    async with RawEngine(saying(WHOLE)) as engine:
        with gateway_in_front_of(engine, tmp_path, keys=keys, head_seconds=0.5, body_seconds=0.5) as gateway:
            await until_listening(gateway)
            tried = [*bearing, *attempts("llama")]
            heard = await attempt_all(gateway.port, tried)

        assert [each.name for each, answer in heard if 200 in answer.statuses] == []
        assert "\n".join(find_wrong(heard)) == ""
        assert {answer.statuses for _, answer in heard[: len(bearing)]} <= {(401,), (431,)}
        # The gateway itself asks an engine of a file whether it is well, and what it serves.
        assert {(each.method, each.path) for each in engine.arrived} <= {("GET", "/health"), ("GET", "/v1/models")}
