"""Engines that answer with garbage: the client gets an error that it can read, or a clean end, and never waits for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.hostile.engines import DONE, END, EVENT, STREAM_HEAD, WHOLE, RawEngine, chunk, saying
from tests.hostile.raw import Heard, say
from tests.hostile.spellings import chat, post

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHAT = post(chat("llama"))
STREAM = post(b'{"model":"llama","messages":[],"stream":true}')
OK = b"HTTP/1.1 200 OK\r\n"
ERROR_EVENT = b'"code":"engine_failed"'

NO_HTTP: dict[str, bytes] = {
    "noise": bytes(range(256)) * 8,
    "a page": b"<html><body>Bad Gateway</body></html>",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "bare line feeds": WHOLE.replace(b"\r\n", b"\n"),
    "both lengths": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "both lengths, turned": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n" + chunk(b"{}") + END,
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "negative length": OK + b"Content-Length: -2\r\n\r\n{}",
    "length no number": OK + b"Content-Length: two\r\n\r\n{}",
    "length beyond 64 bits": OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}",
    "length unreached": OK + b"Content-Length: 100\r\n\r\n{}",
    "longer than its length": OK + b"Content-Length: 2\r\n\r\n{}{}{}",
    "two answers": WHOLE + WHOLE,
    "half a head": OK + b"Content-Type: appl",
    "half a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n100\r\n{}",
    "wrong chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "negative chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "chunks without an end": OK + b"Transfer-Encoding: chunked\r\n\r\n",
    "chunked, then gzip": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + chunk(b"{}") + END,
    "gzip as coding": OK + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "folded header": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "line end in a value": OK + b"X: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\n{}",
    "zero byte in a value": OK + b"X: a\x00\r\nContent-Length: 2\r\n\r\n{}",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status no number": b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\n{}",
    "status 0": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status 600": b"HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status 999": b"HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "only interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    "nothing": b"",
}


async def ask(running: Any, answer: Callable[..., Awaitable[None]], request: bytes, **settings: Any) -> Heard:
    async with running(max_tries=1, first_byte_seconds=5, **settings) as world, RawEngine(answer) as engine:
        world.add_model()
        world.put_pod(engine, pod="pod-1")
        await world.wait_listed()
        heard = await say(world.settings.port, request, quiet=1.0)
        await world.settle(inFlight=0, held=0)
        return heard


async def test_what_is_no_answer_is_told_as_502_or_cut(running: Any) -> None:
    told = {}
    async with running(max_tries=1, first_byte_seconds=5) as world:
        for number, (name, said) in enumerate(NO_HTTP.items()):
            async with RawEngine(saying(said, close=True)) as engine:
                model = f"model-{number}"
                world.add_model(model)
                world.put_pod(engine, pod=model, model=model)
                await world.wait_listed(model)
                told[name] = await say(world.settings.port, post(chat(model)), quiet=0.5)

    def is_right(heard: Heard) -> bool:
        (answer,) = heard.answers
        # Where a part was passed on already, it must not pass for all.
        return (answer.status == 502 and not heard.closed) or (heard.closed and not answer.whole)

    assert {name: heard for name, heard in told.items() if heard.malformed or not is_right(heard)} == {}


async def test_interim_answers_are_passed_over(running: Any) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"

    heard = await ask(running, saying(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + WHOLE), CHAT)

    assert heard.statuses == (200,)
    assert "link" not in heard.answers[0].headers


@pytest.mark.parametrize(
    "endless",
    [
        (OK, b"X: y\r\n" * 500),
        (OK + b"X: ", b"y" * 4000),
        (b"HTTP/1.1 200 ", b"O" * 4000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (b"", b"\r\n" * 2000),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 4000),
        (OK + b"Content-Length: 2\r\nTransfer-Encoding", b"s" * 4000),
        (b"HTTP/1.1 500 Broken\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(b"xx") * 500),
    ],
    ids=["headers", "value", "reason", "interim", "line ends", "extension", "name", "error"],
)
async def test_heads_and_errors_have_an_end(running: Any, endless: tuple[bytes, bytes]) -> None:
    async def answer(engine: RawEngine, arrived: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(endless[0])
        for _ in range(2000):
            writer.write(endless[1])
            await writer.drain()

    heard = await ask(running, answer, CHAT)

    assert heard.statuses == (502,)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("framing", [b"", b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_answers_that_have_no_body_get_none(running: Any, status: int, framing: bytes) -> None:
    answer = b"HTTP/1.1 %d X\r\n%s\r\n" % (status, framing)

    heard = await ask(running, saying(answer), CHAT)
    with_body = await ask(running, saying(answer + b"{}"), CHAT)

    assert (heard.statuses, heard.malformed) == ((status,), "")
    assert with_body.statuses in {(status,), (502,)}
    assert with_body.malformed == ""


async def test_what_an_engine_says_of_its_connection_stays_there(running: Any) -> None:
    fields = b"Connection: close, X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nServer: uvicorn\r\nSet-Cookie: a=b\r\n"

    heard = await ask(running, saying(OK + fields + b"Content-Length: 2\r\n\r\n{}", close=True), CHAT)

    (answer,) = heard.answers
    assert answer.body == b"{}"
    assert not {"x-own", "keep-alive", "set-cookie"} & answer.headers.keys()
    assert not heard.closed


async def test_an_answer_that_ends_with_its_connection_is_whole(running: Any) -> None:
    heard = await ask(running, saying(OK + b"Connection: close\r\n\r\n{}", close=True), CHAT)

    assert [answer.body for answer in heard.answers] == [b"{}"]
    assert heard.answers[0].whole


async def test_trailers_are_not_passed_on(running: Any) -> None:
    answer = OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"{}") + b"0\r\nX-Evil: 1\r\n\r\n"

    heard = await ask(running, saying(answer), CHAT)

    assert (heard.statuses, heard.malformed) == ((200,), "")
    assert heard.answers[0].body == b"{}"


async def test_bytes_between_answers_end_the_connection_and_nothing_else(running: Any) -> None:
    async def answer(engine: RawEngine, arrived: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(WHOLE)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(WHOLE.replace(b"{}", b"[]"))
        await writer.drain()

    async with running() as world, RawEngine(answer) as engine:
        world.add_model()
        world.put_pod(engine, pod="pod-1")
        await world.wait_listed()
        bodies = []
        for _ in range(5):
            heard = await say(world.settings.port, CHAT, quiet=0.15)
            bodies += [one.body for one in heard.answers]

    assert bodies == [b"{}"] * 5
    assert engine.connections == 5


STREAMS_THAT_BREAK: dict[str, tuple[bytes, ...]] = {
    "cut": (chunk(EVENT),),
    "half a chunk": (chunk(EVENT), b"100\r\ndata: {"),
    "wrong chunk size": (chunk(EVENT), b"5\r\n" + EVENT + b"\r\n"),
    "noise for a chunk": (chunk(EVENT), bytes(range(256))),
    "no last event": (chunk(EVENT), END),
    "half an event": (chunk(EVENT), chunk(EVENT[:20]), END),
    "a second answer": (chunk(EVENT), END + WHOLE),
}


@pytest.mark.parametrize("name", STREAMS_THAT_BREAK)
async def test_a_stream_that_breaks_ends_with_an_error_event_and_no_done(running: Any, name: str) -> None:
    heard = await ask(running, saying(STREAM_HEAD, *STREAMS_THAT_BREAK[name], pause=0.05, close=True), STREAM)

    (answer,) = heard.answers
    events = answer.body.split(b"\n\n")
    assert (answer.status, answer.whole) == (200, True)
    assert events[0] + b"\n\n" == EVENT
    assert orjson.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "engine_failed"
    assert DONE not in answer.body


@pytest.mark.parametrize(
    "events",
    [
        bytes(range(256)) * 40,
        b"\x00" * 10_000,
        b"data: \xff\xfe\n\n" * 100,
        b"data: {\n\n",
        b"\n\n" * 5000,
        b"data\n\n",
    ],
    ids=["all bytes", "zeros", "not UTF-8", "half a JSON", "empty", "no value"],
)
async def test_binary_garbage_in_a_stream_is_passed_on_or_refused(running: Any, events: bytes) -> None:
    heard = await ask(running, saying(STREAM_HEAD, chunk(events), chunk(EVENT), chunk(DONE) + END), STREAM)

    (answer,) = heard.answers
    assert answer.status in {200, 502}
    assert heard.malformed == ""
    assert answer.whole


async def test_an_event_without_end_takes_no_memory_without_end(running: Any) -> None:
    passed = 0

    async def answer(engine: RawEngine, arrived: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal passed
        writer.write(STREAM_HEAD + chunk(b"data: "))
        for _ in range(400):
            writer.write(chunk(b"x" * 65_536))
            await writer.drain()
            passed += 65_536
        writer.close()

    heard = await ask(running, answer, STREAM)

    assert passed > 20_000_000
    assert sum(len(one.body) for one in heard.answers) > 20_000_000
    assert not heard.answers[0].whole


async def test_a_stream_without_end_ends_when_its_client_leaves(running: Any) -> None:
    async def answer(engine: RawEngine, arrived: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(EVENT))
            await writer.drain()
            await asyncio.sleep(0)

    async with running() as world, RawEngine(answer) as engine:
        world.add_model()
        world.put_pod(engine, pod="pod-1")
        await world.wait_listed()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.settings.port)
        writer.write(STREAM)
        await reader.readuntil(EVENT[-10:] + b"\r\n")
        writer.close()
        await world.settle(inFlight=0)

        assert (await world.demand())["models"]["team-a/llama"]["inFlight"] == 0


async def test_an_engine_that_says_nothing_is_given_up(running: Any) -> None:
    async def silent(engine: RawEngine, arrived: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async def silent_inside(engine: RawEngine, arrived: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENT))
        await asyncio.sleep(30)

    async with (
        running(first_byte_seconds=1, idle_seconds=0.3) as world,
        RawEngine(silent) as engine,
        RawEngine(silent_inside) as other,
    ):
        for model, one in (("mute", engine), ("muted", other)):
            world.add_model(model)
            world.put_pod(one, pod=model, model=model)
            await world.wait_listed(model)
        whole = await say(world.settings.port, post(chat("mute")))
        stream = await say(world.settings.port, post(b'{"model":"muted","stream":true}'), quiet=3)

    assert whole.statuses == (504,)
    assert ERROR_EVENT in stream.answers[0].body


async def test_a_redirect_is_not_followed(running: Any) -> None:
    async with RawEngine(saying(WHOLE)) as elsewhere:
        target = b"http://127.0.0.1:%d/sleep" % elsewhere.port
        answer = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: " + target + b"\r\nContent-Length: 0\r\n\r\n"

        heard = await ask(running, saying(answer), CHAT)

    assert heard.statuses == (307,)
    assert elsewhere.arrived == []
