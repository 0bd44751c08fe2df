"""What each kind of broken, oversized or odd request is answered with, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import orjson
import pytest

from lull.gateway import pipeline
from lull.gateway.door import Client, Door
from lull.settings import GatewaySettings
from tests.fakes.collaborators import build_gateway
from tests.hostile.engines import DONE, END, EVENT, STREAM_HEAD, WHOLE, RawEngine, chunk, saying
from tests.hostile.raw import PATIENCE, Heard, say
from tests.hostile.spellings import chat, post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.gateway.conftest import World

CHAT = chat("llama")
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"
MODELS = b"GET /v1/models HTTP/1.1\r\nHost: gateway\r\n\r\n"
LIMITS = {"max_body_bytes": 1 << 20, "body_seconds": 1.0}


@pytest.fixture
async def served(running: Any) -> AsyncIterator[World]:
    """A gateway with limits that are soon reached, and a raw engine that answers everything with `{}`."""
    async with running(**LIMITS) as world, RawEngine(saying(WHOLE)) as engine:
        world.add_model()
        world.put_pod(engine, pod="pod-1")
        await world.wait_listed()
        yield world


def brief(heard: Heard) -> str:
    state = "closed" if heard.closed else "open"
    return heard.malformed or " ".join([*map(str, heard.statuses), state])


async def answers_to(world: World, requests: dict[str, bytes]) -> dict[str, str]:
    slots = asyncio.Semaphore(32)

    async def ask(request: bytes) -> str:
        async with slots:
            return brief(await say(world.settings.port, request))

    return dict(zip(requests, await asyncio.gather(*map(ask, requests.values())), strict=True))


def chunked(*chunks: bytes, head: bytes = HEAD) -> bytes:
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(map(chunk, chunks)) + END


def sized(length: bytes, body: bytes = CHAT) -> bytes:
    return HEAD + b"Content-Length: " + length + b"\r\n\r\n" + body


async def test_what_no_reader_may_guess_at_is_refused_and_the_line_is_cut(served: World) -> None:
    length = b"Content-Length: %d\r\n" % len(CHAT)
    coded = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    requests = {
        "both lengths": HEAD + length + b"Transfer-Encoding: chunked\r\n\r\n" + CHAT,
        "both lengths, turned": HEAD + b"Transfer-Encoding: chunked\r\n" + length + b"\r\n" + CHAT,
        "two lengths": HEAD + length + b"Content-Length: 0\r\n\r\n" + CHAT,
        "two equal lengths": HEAD + length * 2 + b"\r\n" + CHAT,
        "list of lengths": sized(b"%d, %d" % (len(CHAT), len(CHAT))),
        "length with a sign": sized(b"+%d" % len(CHAT)),
        "negative length": sized(b"-1"),
        "hexadecimal length": sized(b"0x10"),
        "no number": sized(b"ten"),
        "empty length": sized(b""),
        "length beyond 64 bits": sized(b"9" * 30),
        "gzip and chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + END,
        "gzip alone": HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + END,
        "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
        "empty element": HEAD + b"Transfer-Encoding: ,chunked\r\n\r\n" + END,
        "codings in two lines": HEAD + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
        "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
        "coding in HTTP/1.0": chunked(CHAT, head=HEAD.replace(b"1.1", b"1.0")),
        "chunk size no number": coded + b"zz\r\n{}\r\n0\r\n\r\n",
        "chunk size with a sign": coded + b"-2\r\n{}\r\n0\r\n\r\n",
        "chunk size beyond 64 bits": coded + b"1" + b"0" * 16 + b"\r\n{}",
        "chunk longer than said": coded + b"1\r\n{}\r\n0\r\n\r\n",
        "chunk ends by a line feed": coded + b"2\n{}\n0\n\n",
        "bare line feeds": (HEAD + length + b"\r\n").replace(b"\r\n", b"\n") + CHAT,
        "one bare line feed": HEAD + b"X: y\n" + length + b"\r\n" + CHAT,
        "bare carriage return": HEAD + b"X: y\rZ: z\r\n" + length + b"\r\n" + CHAT,
        "folded line": HEAD + b"X: y\r\n z\r\n" + length + b"\r\n" + CHAT,
        "space before the colon": HEAD + b"X : y\r\n" + length + b"\r\n" + CHAT,
        "space before the name": HEAD + b" X: y\r\n" + length + b"\r\n" + CHAT,
        "no colon": HEAD + b"X\r\n" + length + b"\r\n" + CHAT,
        "no name": HEAD + b": y\r\n" + length + b"\r\n" + CHAT,
        "name not ASCII": HEAD + b"\xc3\xa4: y\r\n" + length + b"\r\n" + CHAT,
        "zero byte in a value": HEAD + b"X: a\x00b\r\n" + length + b"\r\n" + CHAT,
        "control in a value": HEAD + b"X: a\x1bb\r\n" + length + b"\r\n" + CHAT,
        "no host": post(CHAT).replace(b"Host: gateway\r\n", b""),
        "two hosts": post(CHAT, b"Host: gateway"),
        "path in the host": post(CHAT, host=b"gateway/sleep?"),
        "user in the host": post(CHAT, host=b"a@gateway"),
        "space in the host": post(CHAT, host=b"a b"),
        "zero byte in the target": post(CHAT, target=b"/v1/chat/completions\x00"),
        "space in the target": post(CHAT, target=b"/v1/chat completions"),
        "HTTP/0.9": b"GET /v1/models HTTP/0.9\r\n\r\n",
        "HTTP/2.0": MODELS.replace(b"1.1", b"2.0"),
        "HTTP/1.2": MODELS.replace(b"1.1", b"1.2"),
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        "lower-case method": MODELS.lower(),
        "no method": b" /v1/models HTTP/1.1\r\n\r\n",
        "noise": bytes(range(256)) * 40,
        "two encodings": post(CHAT, b"Content-Encoding: identity", b"Content-Encoding: gzip"),
        "two types": post(CHAT, b"Content-Type: text/plain"),
        "two keys": post(CHAT, b"Authorization: Bearer a", b"Authorization: Bearer b"),
    }

    answered = await answers_to(served, requests)

    assert answered == dict.fromkeys(requests, "400 closed")


async def test_what_is_too_much_is_refused_before_it_is_read(served: World) -> None:
    requests = {
        "413 length": sized(b"%d" % (1 << 40)),
        "413 length of 64 bits": sized(b"%d" % (2**64 - 1)),
        "413 chunks": chunked(*[b"x" * 65_536] * 20),
        "414 target": post(CHAT, target=b"/v1/chat/completions?" + b"x" * 20_000),
        "414 path": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: gateway\r\n\r\n",
        "431 value": post(CHAT, b"X: " + b"x" * 100_000),
        "431 value without end": HEAD + b"X: " + b"x" * 2_000_000,
        "431 name": post(CHAT, b"X" * 100_000 + b": x"),
        "431 number": post(CHAT, *[b"X: x"] * 1000),
        "431 lines": HEAD + b"X: xxxx\r\n" * 200_000,
        "415 gzip": post(gzip.compress(b" " * 50_000_000), b"Content-Encoding: gzip"),
        "415 gzip in chunks": chunked(gzip.compress(b" " * 50_000_000), head=HEAD + b"Content-Encoding: gzip\r\n"),
        "415 deflate": post(zlib.compress(b" " * 50_000_000), b"Content-Encoding: deflate"),
        "415 br": post(CHAT, b"Content-Encoding: br"),
        "415 zstd": post(CHAT, b"Content-Encoding: zstd"),
        "415 list": post(CHAT, b"Content-Encoding: identity, gzip"),
        "417 expectation": post(CHAT, b"Expect: 200-ok"),
        "405 tunnel": b"CONNECT 127.0.0.1:8000 HTTP/1.1\r\nHost: gateway\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    }

    answered = await answers_to(served, requests)

    assert answered == {name: f"{name.partition(' ')[0]} closed" for name in requests}


async def test_trailers_and_chunk_extensions_have_a_bound(served: World) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    requests = {
        "extension": head + b"2;" + b"x" * 8_000_000,
        "extensions": head + b"1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n \r\n" * 200_000,
        "zeros": head + b"0" * 8_000_000,
        "trailer": head + b"0\r\nX: " + b"x" * 2_000_000,
        "trailers": head + b"0\r\n" + b"X: y\r\n" * 50_000,
    }

    answered = await answers_to(served, requests)

    assert {name: answer for name, answer in answered.items() if answer not in {"431 closed", "413 closed"}} == {}


async def test_odd_but_allowed_requests_are_served(served: World) -> None:
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB")
    requests = {
        "plain": (post(CHAT), "200 open"),
        "chunked": (chunked(CHAT), "200 open"),
        "chunked, byte by byte": (chunked(*(CHAT[i : i + 1] for i in range(len(CHAT)))), "200 open"),
        "chunked in capitals": (chunked(CHAT).replace(b"chunked", b"Chunked "), "200 open"),
        "extensions": (chunked(CHAT).replace(b"\r\n{", b';a="b";c\r\n{'), "200 open"),
        "trailer": (chunked(CHAT).replace(END, b"0\r\nX: y\r\nHost: evil\r\nContent-Type: z\r\n\r\n"), "200 open"),
        "length with zeros": (sized(b"000%d" % len(CHAT)), "200 open"),
        "line ends before it": (b"\r\n\r\n" + post(CHAT), "200 open"),
        "closing": (post(CHAT, b"Connection: close"), "200 closed"),
        "HTTP/1.0": (post(CHAT).replace(b"1.1", b"1.0"), "200 closed"),
        "HTTP/1.0 without a host": (post(CHAT).replace(b"1.1\r\nHost: gateway", b"1.0"), "200 closed"),
        "HTTP/1.0 with an expectation": (post(CHAT, b"Expect: 100-continue").replace(b"1.1", b"1.0"), "200 closed"),
        "100-continue": (post(CHAT, b"Expect: 100-continue"), "100 200 open"),
        "h2c is offered": (post(CHAT, *upgrade), "200 open"),
        "h2c is offered, chunked": (chunked(CHAT, head=HEAD + b"\r\n".join((*upgrade, b""))), "200 open"),
        "h2c is offered, no body": (MODELS[:-2] + b"\r\n".join((*upgrade, b"", b"")), "200 open"),
        "absolute target": (post(CHAT, target=b"http://gateway/v1/chat/completions"), "404 open"),
        "no length": (HEAD + b"\r\n", "400 open"),
        "identity": (post(CHAT, b"Content-Encoding: identity"), "200 open"),
        "host with a port": (post(CHAT, host=b"gateway:8080"), "200 open"),
        "host of numbers": (post(CHAT, host=b"[::1]:8080"), "200 open"),
        "obscure bytes": (post(CHAT, b"X: \xe4\xff"), "200 open"),
        "one after the other": (MODELS + post(CHAT) + MODELS, "200 200 200 open"),
        "more after the last": (post(CHAT, b"Connection: close") + MODELS, "200 closed"),
        "noise after one": (post(CHAT) + b"\x00\x01\x02", "200 400 closed"),
    }

    answered = await answers_to(served, {name: request for name, (request, _) in requests.items()})

    assert answered == {name: wanted for name, (_, wanted) in requests.items()}


async def test_bodies_that_are_no_call_are_refused_and_the_line_stays_open(served: World) -> None:
    bodies = {
        "empty": b"",
        "nothing but space": b" " * 100_000,
        "not JSON": b"model=llama",
        "cut": CHAT[:-1],
        "more behind": CHAT + b"{}",
        "not UTF-8": b'{"model":"\xff\xfe"}',
        "UTF-16": CHAT.decode().encode("utf-16"),
        "surrogate, raw": b'{"model":"\xed\xa0\x80"}',
        "overlong": b'{"model":"\xc0\xaf"}',
        "mark before": b"\xef\xbb\xbf" + CHAT,
        "zero byte": b'{"model":"lla\x00ma"}',
        "deep list": b"[" * 100_000,
        "deep list, closed": b"[" * 100_000 + b"]" * 100_000,
        "deep object": b'{"a":' * 100_000,
        "deep within": b'{"model":"llama","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep and doubled": b'{"model":"llama","model":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "list": b'["llama"]',
        "text": b'"llama"',
        "null": b"null",
        "number": b"1",
        "no model": b"{}",
        "model null": b'{"model":null}',
        "model number": b'{"model":1}',
        "model list": b'{"model":["llama"]}',
        "model object": b'{"model":{"a":1}}',
        "model empty": b'{"model":""}',
        "model twice": b'{"model":"llama","model":"other"}',
        "model twice by an escape": b'{"model":"llama","mo\\u0064el":"other"}',
        "stream twice": b'{"model":"llama","stream":true,"stream":false}',
        "stream number": b'{"model":"llama","stream":1}',
        "stream text": b'{"model":"llama","stream":"true"}',
        "not a number": b'{"model":"llama","temperature":NaN}',
        "infinite": b'{"model":"llama","temperature":Infinity}',
        "comment": b'{"model":"llama"/* */}',
        "comma": b'{"model":"llama",}',
        "quotes": b"{'model':'llama'}",
        "lone surrogate": b'{"model":"\\ud800"}',
    }

    answered = await answers_to(served, {name: post(body) for name, body in bodies.items()})

    assert answered == dict.fromkeys(bodies, "400 open")


async def test_numbers_of_any_size_are_no_trouble(served: World) -> None:
    numbers = (b"9" * 10_000, b"-" + b"9" * 400, b"1e400", b"1e-400", b"0." + b"1" * 100_000, b"-0", b"1e99999999")
    fields = (b"max_tokens", b"n", b"temperature", b"seed", b"stream_options", b"max_completion_tokens", b"x")
    requests = {
        f"{field.decode()} {number[:8].decode()}": post(b'{"model":"llama","%s":%s}' % (field, number))
        for field in fields
        for number in numbers
    }

    answered = await answers_to(served, requests)

    assert {name: answer for name, answer in answered.items() if answer not in {"200 open", "400 open"}} == {}


async def test_headers_of_our_own_take_any_value(served: World) -> None:
    values = (
        b"nan",
        b"inf",
        b"-inf",
        b"-1",
        b"0",
        b"1e308",
        b"1e-308",
        b"",
        b"\xff",
        b"1" * 5000,
        b"0x1",
        b"1_0",
        b"use, skip",
    )
    requests = {
        f"{name.decode()}: {value[:9]!r}": post(body, name + b": " + value)
        for name in (
            b"x-lull-timeout",
            b"x-lull-heartbeat",
            b"x-lull-cache",
            b"traceparent",
            b"tracestate",
            b"x-request-id",
        )
        for value in values
        for body in (CHAT, b'{"model":"nobody","stream":true}')
    }

    answered = await answers_to(served, requests)

    assert {
        name: answer for name, answer in answered.items() if answer not in {"200 open", "400 open", "404 open"}
    } == {}


async def test_what_is_between_two_neighbours_stays_there(running: Any) -> None:
    fields = (
        *(
            b"Connection: x-one",
            b"Connection: X-Two, keep-alive",
            b"X-One: 1",
            b"X-Two: 2",
            b"X-Three: 3",
            b"TE: trailers",
        ),
        *(
            b"Proxy-Authorization: x",
            b"Keep-Alive: 1",
            b"Cookie: a=b",
            b"Authorization: Bearer x",
            b"X-Data-Parallel-Rank: 0",
        ),
    )
    async with running() as world, RawEngine(saying(WHOLE)) as engine:
        world.add_model()
        world.put_pod(engine, pod="pod-1")
        await world.wait_listed()

        heard = await say(world.settings.port, post(CHAT, *fields))

    assert brief(heard) == "200 open"
    assert engine.arrived[0].headers.keys() == {"host", "content-type", "content-length", "x-request-id", "x-three"}


async def test_an_answer_to_head_has_no_body(served: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.settings.port)
    writer.write(b"HEAD /v1/models HTTP/1.1\r\nHost: gateway\r\n\r\n" + MODELS)

    head = await reader.readuntil(b"\r\n\r\n")
    following = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert head.startswith(b"HTTP/1.1 200 ")
    assert following.startswith(b"HTTP/1.1 200 ")


async def test_errors_have_the_shape_that_clients_read(served: World) -> None:
    heard = await asyncio.gather(
        *(
            say(served.settings.port, request)
            for request in (b"\x00", sized(b"-1"), post(b"{"), post(CHAT, target=b"/sleep"))
        )
    )

    for one in heard:
        (answer,) = one.answers
        assert answer.headers["content-type"] == "application/json"
        assert set(orjson.loads(answer.body)["error"]) == {"message", "type", "param", "code"}


class TestPipelining:
    async def test_answers_come_in_order(self, running: Any) -> None:
        async def answer(engine: RawEngine, arrived: Any, writer: asyncio.StreamWriter) -> None:
            body = orjson.loads(arrived.body)
            await asyncio.sleep(0.05 if body["seed"] % 2 else 0)
            text = b"%d" % body["seed"]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

        async with running() as world, RawEngine(answer) as engine:
            world.add_model()
            world.put_pod(engine, pod="pod-1")
            await world.wait_listed()

            *first, last = (b'{"model":"llama","seed":%d}' % number for number in range(12))
            requests = b"".join(map(post, first)) + post(last, b"Connection: close")
            heard = await say(world.settings.port, requests, quiet=PATIENCE)

        assert heard.closed
        assert [answer.body for answer in heard.answers] == [b"%d" % n for n in range(12)]

    async def test_a_client_gets_no_more_done_at_a_time_than_others(self, running: Any) -> None:
        """Thousands of requests in one packet do not become thousands of requests to engines, nor of answers."""
        async with running() as world, RawEngine(saying(WHOLE, pause=0.02)) as engine:
            world.add_model()
            world.put_pod(engine, pod="pod-1")
            await world.wait_listed()

            flood = asyncio.create_task(say(world.settings.port, post(CHAT) * 2000, quiet=1.0))
            await asyncio.sleep(0.3)

            assert engine.connections <= 2
            assert (await world.demand())["models"]["team-a/llama"]["inFlight"] <= 1
            heard = await flood

        assert set(heard.statuses) <= {200, 400, 429}


class TestSlowness:
    @pytest.mark.parametrize(
        "pieces",
        [
            [HEAD[:20], *[b"x"] * 200],
            [HEAD, *[b"X: y\r\n"] * 200],
            [HEAD + b"Content-Length: 500\r\n\r\n", *[b" "] * 200],
            [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 200],
            [HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", *[b"x"] * 200],
            [HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", *[b"X: y\r\n"] * 200],
        ],
        ids=["target", "headers", "body", "chunks", "extension", "trailers"],
    )
    async def test_a_request_that_trickles_in_is_given_up(self, running: Any, pieces: list[bytes]) -> None:
        async with running(body_seconds=0.4, head_seconds=0.4) as world:
            heard = await say(world.settings.port, *pieces, pause=0.05)

        assert brief(heard) == "408 closed"

    async def test_so_is_one_that_follows_another(self, running: Any) -> None:
        async with running(body_seconds=0.4, head_seconds=0.4) as world:
            heard = await say(world.settings.port, MODELS + HEAD[:30], quiet=5)
            with_body = await say(world.settings.port, MODELS + HEAD + b"Content-Length: 9\r\n\r\n{", quiet=5)

        assert brief(heard) == "200 408 closed"
        assert brief(with_body) == "200 408 closed"

    async def test_and_one_that_stops(self, running: Any) -> None:
        async with running(body_seconds=0.4, head_seconds=0.4) as world:
            heard = await asyncio.gather(
                say(world.settings.port, HEAD),
                say(world.settings.port, b"GET /v1/models"),
                say(world.settings.port, sized(b"500")),
                say(world.settings.port, chunked(CHAT)[:-3]),
                say(world.settings.port, b"PRI * HTTP/1.1\r\n\r\n"),
                say(world.settings.port, b"G"),
            )

        assert [brief(one) for one in heard[:4]] == ["408 closed"] * 4
        assert all(one.closed for one in heard)

    async def test_line_ends_without_end_are_no_sign_of_life(self) -> None:
        gateway = build_gateway(GatewaySettings())
        door = Door(gateway, serve=pipeline.serve, refuse=pipeline.refuse, leave=pipeline.leave, sweep=pipeline.sweep)
        client = Client(door)
        transport = Mock(asyncio.Transport)
        client.connection_made(transport)
        due = client.due

        for _ in range(60):
            client.data_received(b"\r\n")
        client.expire()

        assert client.due == due
        transport.abort.assert_called_once_with()
        transport.write.assert_not_called()


class TestLeaving:
    async def test_whoever_closes_at_any_byte_leaves_nothing_behind(self, served: World) -> None:
        request = post(CHAT)

        async def cut(at: int, *, reset: bool) -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", served.settings.port)
            writer.write(request[:at])
            await writer.drain()
            writer.transport.abort() if reset else writer.close()

        for at in range(0, len(request) + 1, 3):
            await asyncio.gather(cut(at, reset=True), cut(at, reset=False))

        await served.settle(inFlight=0, held=0)
        assert (await served.ask())[0] == 200

    async def test_memory_for_bodies_is_given_back(self, running: Any) -> None:
        async with running(max_pending_bytes=1 << 20, body_seconds=0.5) as world, RawEngine(saying(WHOLE)) as engine:
            world.add_model()
            world.put_pod(engine, pod="pod-1")
            await world.wait_listed()
            large = b" " * 300_000 + CHAT
            requests = {
                "served": post(large),
                "refused": post(large[:-1]),
                "cut off": post(large)[:-100],
                "broken": chunked(large)[:-7] + b"zz",
                "too large": chunked(large, large, large, large),
                "followed by noise": post(large) + b"\x00",
                "followed by another": post(large) + post(large)[:-10],
                "unknown": post(large, target=b"/sleep"),
                "with an offer": post(large, b"Connection: upgrade", b"Upgrade: h2c"),
            }

            for _ in range(4):
                for request in requests.values():
                    await say(world.settings.port, request, quiet=0.05)
            heard = await say(world.settings.port, post(b" " * 900_000 + CHAT))

        assert brief(heard) == "200 open"

    async def test_a_client_that_reads_nothing_holds_its_engine_up(self, running: Any) -> None:
        sent = 0

        async def answer(engine: RawEngine, arrived: Any, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(STREAM_HEAD)
            large = b"data: " + b"x" * 10_000 + b"\n\n"
            for _ in range(10_000):
                writer.write(chunk(large))
                await writer.drain()
                sent += len(large)
            writer.write(chunk(DONE) + END)

        async with running() as world, RawEngine(answer) as engine:
            world.add_model()
            world.put_pod(engine, pod="pod-1")
            await world.wait_listed()
            _, writer = await asyncio.open_connection("127.0.0.1", world.settings.port, limit=1)
            cast("asyncio.Transport", writer.transport).pause_reading()
            writer.write(post(b'{"model":"llama","stream":true}'))
            await world.until(lambda: sent > 0)
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.3)

            assert sent < 40_000_000
            writer.transport.abort()
            await world.settle(inFlight=0)

    async def test_a_reset_in_the_middle_of_a_stream_frees_the_engine(self, running: Any) -> None:
        async def answer(engine: RawEngine, arrived: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD)
            while not writer.is_closing():
                writer.write(chunk(EVENT))
                await writer.drain()
                await asyncio.sleep(0.01)

        async with running() as world, RawEngine(answer) as engine:
            world.add_model()
            world.put_pod(engine, pod="pod-1")
            await world.wait_listed()
            for _ in range(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", world.settings.port)
                writer.write(post(b'{"model":"llama","stream":true}'))
                await reader.readuntil(EVENT[-10:])
                writer.transport.abort()
            await world.settle(inFlight=0)

            assert engine.connections == 10
