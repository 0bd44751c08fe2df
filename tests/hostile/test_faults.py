"""Engines that fail under load: clients notice nothing, or a well-formed end of a stream that had begun."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import orjson
import pytest

from tests.hostile.engines import DONE, END, EVENT, STREAM_HEAD, WHOLE, Arrived, RawEngine, chunk, saying

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.gateway.conftest import World

Answer = Callable[[RawEngine, Arrived, asyncio.StreamWriter], Awaitable[None]]

EVENTS = 5
PAUSE = 0.01
CLIENTS = 16


@dataclass
class Seen:
    """How a load went, request by request."""

    answered: int = 0
    broken: int = 0
    """Streams that ended after their first event with an error event and no [DONE]."""
    failures: list[str] = field(default_factory=list)


async def work(engine: RawEngine, arrived: Arrived, writer: asyncio.StreamWriter) -> None:
    """Answer as a sound engine does, not all at once."""
    if not orjson.loads(arrived.body).get("stream"):
        await asyncio.sleep(PAUSE)
        writer.write(WHOLE)
        return
    writer.write(STREAM_HEAD)
    for _ in range(EVENTS):
        await asyncio.sleep(PAUSE)
        writer.write(chunk(EVENT))
    writer.write(chunk(DONE) + END)


@asynccontextmanager
async def load(world: World) -> AsyncIterator[Seen]:
    """Ask without a pause while the block runs, half of it streams; then let the last requests finish."""
    seen = Seen()
    stop = asyncio.Event()

    async def client(*, streaming: bool) -> None:
        while not stop.is_set():
            try:
                status, body = await world.ask(stream=streaming)
            except aiohttp.ClientError as error:
                seen.failures.append(repr(error))
            else:
                _judge(seen, status, body, streaming=streaming)

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(streaming=number % 2 == 0))
        try:
            yield seen
        finally:
            stop.set()


def _judge(seen: Seen, status: int, body: bytes, *, streaming: bool) -> None:
    whole = EVENT * EVENTS + DONE if streaming else b"{}"
    events = body.split(b"\n\n")
    if (status, body) == (200, whole):
        seen.answered += 1
    elif streaming and status == 200 and body.startswith(EVENT) and events[-1] == b"" and DONE not in body:
        assert orjson.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "engine_failed"
        seen.broken += 1
    else:
        seen.failures.append(f"{status} {body[:200]!r}")


@asynccontextmanager
async def two_engines(world: World, first: Answer = work) -> AsyncIterator[tuple[RawEngine, RawEngine]]:
    world.add_model()
    async with RawEngine(first) as one, RawEngine(work) as other:
        world.put_pod(one, pod="one")
        world.put_pod(other, pod="other")
        await world.wait_listed()
        yield one, other


async def test_an_engine_is_killed(world: World) -> None:
    async with two_engines(world) as (engine, _), load(world) as seen:
        await asyncio.sleep(0.3)
        engine.kill()
        await asyncio.sleep(0.5)
        world.remove_pod("one")
        await asyncio.sleep(0.2)

    assert seen.failures == []
    assert seen.answered > 20
    assert seen.broken <= CLIENTS // 2


@pytest.mark.parametrize("end", ["its process is killed", "its pod is gone"])
async def test_an_engine_freezes(world: World, end: str) -> None:
    """Nothing is said and nothing closed until the kubelet, or the loss of its node, ends it."""
    frozen = asyncio.Event()

    async def answer(engine: RawEngine, arrived: Arrived, writer: asyncio.StreamWriter) -> None:
        if frozen.is_set():
            await asyncio.sleep(30)
        await work(engine, arrived, writer)

    async with two_engines(world, answer) as (engine, _), load(world) as seen:
        await asyncio.sleep(0.3)
        frozen.set()
        await asyncio.sleep(0.3)
        if end == "its pod is gone":
            world.remove_pod("one")
        else:
            engine.kill()
        await asyncio.sleep(0.5)

    assert seen.failures == []
    assert seen.broken <= CLIENTS // 2
    assert seen.answered > 20


BAD: dict[str, Answer] = {
    "500": saying(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}"),
    "500 without a length": saying(b"HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\noops", close=True),
    "500 in chunks": saying(b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"oops") + END),
    "502": saying(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"),
    "503": saying(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
    "garbage": saying(b"\x00\x01\x02garbage" * 100, close=True),
    "half a head": saying(WHOLE[:30], close=True),
    "half a body": saying(WHOLE[:-1], close=True),
    "half a chunk": saying(STREAM_HEAD + b"100\r\ndata: {", close=True),
    "a stream without events": saying(STREAM_HEAD + END),
    "an error first": saying(
        STREAM_HEAD + chunk(b'data: {"error":{"message":"x","code":500}}\n\n') + chunk(DONE) + END
    ),
    "a closed line": saying(b"", close=True),
}


@pytest.mark.parametrize("name", BAD)
async def test_an_engine_answers_garbage(world: World, name: str) -> None:
    async with two_engines(world, BAD[name]) as (engine, _), load(world) as seen:
        await asyncio.sleep(0.5)

    assert seen.failures == []
    assert seen.broken == 0
    assert seen.answered > 10
    assert engine.arrived


async def test_engines_break_in_the_middle_of_streams(world: World) -> None:
    async def answer(engine: RawEngine, arrived: Arrived, writer: asyncio.StreamWriter) -> None:
        if not orjson.loads(arrived.body).get("stream"):
            await work(engine, arrived, writer)
            return
        writer.write(STREAM_HEAD + chunk(EVENT) + b"50\r\ndata: {")
        await asyncio.sleep(PAUSE)
        writer.close()

    async with two_engines(world, answer) as (engine, _), load(world) as seen:
        await asyncio.sleep(0.5)

    assert seen.failures == []
    assert seen.broken == sum(b'"stream": true' in each.body for each in engine.arrived)
    assert seen.answered > 10


async def test_every_engine_is_replaced(world: World) -> None:
    async with (
        two_engines(world) as (one, other),
        RawEngine(work) as third,
        RawEngine(work) as fourth,
        load(world) as seen,
    ):
        for pod, before, after in (("one", one, third), ("other", other, fourth)):
            await asyncio.sleep(0.2)
            world.put_pod(after, pod=f"{pod}-after")
            world.put_pod(before, pod=pod, deleting=True)
            await asyncio.sleep(0.5)
            before.kill()
            world.remove_pod(pod)
        await asyncio.sleep(0.2)

    assert seen.failures == []
    assert seen.broken == 0
    assert seen.answered > 50
    assert third.arrived
    assert fourth.arrived


async def test_the_api_server_is_away_and_an_engine_dies(world: World) -> None:
    async with two_engines(world) as (engine, _), load(world) as seen:
        world.kube.go_away()
        await asyncio.sleep(0.3)
        engine.kill()
        await asyncio.sleep(0.7)

    assert seen.failures == []
    assert seen.broken <= CLIENTS // 2
    assert seen.answered > 20


async def test_all_engines_die_and_come_back(world: World) -> None:
    async with two_engines(world) as (one, other), RawEngine(work) as spare, load(world) as seen:
        await asyncio.sleep(0.2)
        one.kill()
        other.kill()
        await asyncio.sleep(0.3)
        world.put_pod(spare, pod="spare")
        await asyncio.sleep(0.5)

    assert seen.failures == []
    assert seen.broken <= CLIENTS // 2
    assert spare.arrived
