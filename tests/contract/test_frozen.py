"""Real vLLM that freezes under load, next to an engine that goes on: clients notice nothing before the first byte."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import orjson
import pytest

from tests.unit.gateway import conftest as gateways

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.conftest import Engine, Pair
    from tests.unit.gateway.conftest import World

running_gateway = gateways.running
pytestmark = [pytest.mark.contract, pytest.mark.timeout(1500)]

_CLIENTS = 6
_TOKENS = 12


async def test_a_frozen_vllm_costs_no_request_before_its_first_byte(pair: Pair, running_gateway: Any) -> None:
    outcomes: list[str] = []
    stop = asyncio.Event()
    async with running_gateway() as world:
        world.add_model("tiny")
        for engine in pair:
            world.put_pod(_address(engine), pod=engine.name, model="tiny")
        await world.wait_listed("tiny")

        async with asyncio.TaskGroup() as group:
            for number in range(_CLIENTS):
                group.create_task(_client(world, outcomes, stop, streaming=number % 2 == 0))
            await world.until(lambda: len(outcomes) >= 4 * _CLIENTS)
            with _frozen(pair.real):
                await asyncio.sleep(1)
                world.remove_pod("real")
                await asyncio.sleep(1)
            world.put_pod(_address(pair.real), pod="real", model="tiny")
            before = len(outcomes)
            await world.until(lambda: len(outcomes) >= before + 4 * _CLIENTS)
            stop.set()

    counted = {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
    print(counted)
    assert counted.keys() <= {"answered", "broken"}
    assert counted.get("broken", 0) <= _CLIENTS


async def _client(world: World, outcomes: list[str], stop: asyncio.Event, *, streaming: bool) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": _TOKENS}
    while not stop.is_set():
        try:
            async with world.session.post(
                f"{world.url}/v1/chat/completions", json={**body, "ignore_eos": True, "stream": streaming}
            ) as response:
                answer = await response.read()
        except aiohttp.ClientError as error:
            outcomes.append(repr(error))
        else:
            outcomes.append(_judge(response.status, answer, streaming=streaming))


def _judge(status: int, answer: bytes, *, streaming: bool) -> str:
    if status == 200 and not streaming and orjson.loads(answer)["usage"]["completion_tokens"] == _TOKENS:
        return "answered"
    if status == 200 and streaming and answer.endswith(b"data: [DONE]\n\n"):
        return "answered"
    events = answer.split(b"\n\n")
    if status == 200 and streaming and len(events) > 2 and b'"code":"engine_failed"' in events[-2]:
        return "broken"
    return f"{status} {answer[:300]!r}"


@contextmanager
def _frozen(engine: Engine) -> Iterator[None]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    family = [pid for pid in pids if _session(pid) == engine.process.pid]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(httpx.ReadTimeout):
            engine.client.get("/health", timeout=0.5)
        yield
    finally:
        for pid in family:
            os.kill(pid, signal.SIGCONT)


def _session(pid: int) -> int:
    try:
        # The name may have spaces and brackets; what follows its last bracket has none.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[3])


def _address(engine: Engine) -> Any:
    return SimpleNamespace(port=engine.client.base_url.port)
