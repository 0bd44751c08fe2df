"""No bytes make a parser fail, hang or grow, and however they are cut, they mean the same.

Seconds of this run with the unit tests; `make fuzz` looks for minutes, from another seed each time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import h11
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lull.core.affinity import measure_work
from lull.core.keys import InvalidKey, Keyring, build_keyring, parse_key
from lull.gateway.config import InvalidConfig, parse_config
from lull.gateway.door import Client, Door
from lull.gateway.engines import Connection, Engines
from lull.gateway.reply import JSON
from lull.settings import GatewaySettings
from lull.wire.openai import INFERENCE_PATHS, Call, Refusal, parse_call
from lull.wire.sse import EventReader
from lull.wire.usage import Usage, ask_for_usage, read_usage
from tests.fakes.collaborators import build_gateway
from tests.hostile.raw import parse_answers
from tests.hostile.spellings import attempts, chat, post
from tests.usages import told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lull.gateway.exchange import Exchange, Gateway
    from lull.wire.openai import Refusal

CUTS = st.lists(st.integers(0, 100_000), max_size=12)
PATHS = st.sampled_from(sorted(INFERENCE_PATHS))
SETTINGS: Final = GatewaySettings(max_body_bytes=4096, max_pending_bytes=65_536)


def cut(whole: bytes, at: list[int]) -> list[bytes]:
    points = sorted({0, len(whole), *(point % (len(whole) + 1) for point in at)})
    return [whole[start:end] for start, end in itertools.pairwise(points)]


# What bytes are made of: what was sent in earnest, put together, and then spoilt somewhere.

REQUESTS: Final = [
    b"GET /v1/models HTTP/1.1\r\nHost: gateway\r\n\r\n",
    post(chat("llama")),
    post(chat("llama"), b"Expect: 100-continue"),
    post(chat("llama"), b"Connection: close"),
    post(b"x" * 5000),
    post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",
    post(b"{}", b"Connection: Upgrade", b"Upgrade: h2c"),
    post(b"{}").replace(b"1.1", b"1.0"),
    b"HEAD /v1/models/llama HTTP/1.1\r\nHost: [::1]:80\r\nX: \xe4\r\n\r\n",
    *(attempt.request for attempt in attempts("llama")[::25]),
]
PIECES: Final = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\x00", b"\xff", b";", b",", b"0", b"-1", b"chunked"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n", b"HTTP/1.1", b"0\r\n\r\n", b"\x80"),
    *(b"Connection: upgrade\r\nUpgrade: x\r\n", b"Expect: 100-continue\r\n", b"ffffffff", b"X" * 500),
]
ANSWERS: Final = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.0 503 Busy\r\nContent-Length: 0\r\nX: y\r\n\r\n",
]


@st.composite
def spoilt(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    whole = b"".join(draw(st.lists(st.sampled_from(sound), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        at, length = draw(st.integers(0, len(whole))), draw(st.sampled_from([0, 0, 1, 2, 8]))
        piece = draw(st.one_of(st.just(b""), st.sampled_from(PIECES), st.binary(max_size=4)))
        whole = whole[:at] + piece + whole[at + length :]
    return whole


class Transport:
    """A socket that never blocks and remembers what was written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_reading = True
        self.is_closed = False

    def write(self, data: bytes) -> None:
        if not self.is_closed:
            self.written += data

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.write(b"".join(pieces))

    def pause_reading(self) -> None:
        assert self.is_reading
        self.is_reading = False

    def resume_reading(self) -> None:
        assert not self.is_reading
        self.is_reading = True

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed


class Front:
    """A door with one client, behind which every request is answered at once."""

    def __init__(self) -> None:
        self.gateway = build_gateway(SETTINGS)
        self.served: list[tuple[str, str, bytes]] = []
        self.transport = Transport()
        door = Door(
            self.gateway,
            serve=self._serve,
            refuse=self._refuse,
            leave=self._leave,
            sweep=lambda *_: None,
        )
        self.client = Client(door)
        self.client.connection_made(cast("asyncio.Transport", self.transport))

    def feed(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if not self.transport.is_closed:
                self.client.data_received(piece)
        self.client.door.outbox.flush()

    def _serve(self, gateway: Gateway, exchange: Exchange) -> None:
        self.served.append((exchange.method, exchange.path, exchange.body))
        gateway.pending_bytes -= exchange.size
        # An answer to HEAD announces a body that does not follow; here it follows, so that all answers are read alike.
        exchange.reply.has_body = True
        exchange.reply.send(200, JSON, b"{}")

    def _refuse(self, _: Gateway, exchange: Exchange, refusal: Refusal) -> None:
        exchange.reply.has_body = True
        exchange.reply.refuse(refusal)

    def _leave(self, gateway: Gateway, exchange: Exchange) -> None:
        raise AssertionError("every request was answered")


@pytest.fixture(scope="module", autouse=True)
def _loop() -> Iterator[None]:
    """Protocols ask for the event loop; nothing here waits for it."""
    loop = asyncio.new_event_loop()
    asyncio.events._set_running_loop(loop)
    yield
    asyncio.events._set_running_loop(None)
    loop.close()


class TestDoor:
    @given(spoilt(REQUESTS), CUTS)
    @example(REQUESTS[0] * 40, [])
    @example(REQUESTS[6] + b"GET /v1HTTP/1.1\r\nHost: gateway\r\n\r\n", [])
    @example(REQUESTS[6] * 60, [])
    def test_any_bytes_get_an_answer_or_a_close_and_cuts_do_not_matter(self, sent: bytes, at: list[int]) -> None:
        whole, pieces = Front(), Front()

        whole.feed([sent])
        pieces.feed(cut(sent, at))

        assert whole.served == pieces.served
        # One that is cut before its body is told to go on, and one that is not has gone on already.
        first, second = (
            [answer.status for answer in parse_answers(bytes(front.transport.written)) if answer.status != 100]
            for front in (whole, pieces)
        )
        assert first == second
        assert whole.transport.is_closed == pieces.transport.is_closed
        for front in (whole, pieces):
            front.client.connection_lost(None)
            assert front.gateway.pending_bytes == 0

    @given(st.binary(max_size=2000), CUTS)
    def test_noise_is_no_request(self, sent: bytes, at: list[int]) -> None:
        front = Front()

        front.feed(cut(sent, at))

        assert front.served == []

    @given(spoilt(REQUESTS))
    def test_what_is_served_is_what_another_parser_reads(self, sent: bytes) -> None:
        """Two readers that split a stream of bytes in two ways are what request smuggling is made of."""
        front = Front()

        front.feed([sent])

        for mine, other in zip(front.served, _read_with_h11(sent), strict=False):
            assert mine == other


def _read_with_h11(sent: bytes) -> list[tuple[str, str, bytes]]:
    """Requests up to the first that h11 refuses."""
    read: list[tuple[str, str, bytes]] = []
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent.lstrip(b"\r\n"))
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, target, body = event.method.decode(), event.target.decode("latin-1"), b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                read.append((method, target.partition("?")[0], body))
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    break
                connection.start_next_cycle()
            else:
                break
    except h11.RemoteProtocolError:
        pass
    return read


class Listener:
    """Who reads an engine's answer, and holds the connection to its promises."""

    def __init__(self) -> None:
        self.heads = 0
        self.ends = 0

    def connected(self, connection: Connection) -> None: ...

    def unreachable(self, detail: str) -> None: ...

    def head(self, status: int, headers: Any, length: int | None) -> None:
        assert self.heads == self.ends == 0
        assert 200 <= status < 600
        assert not any(byte in value for _, value in headers for byte in b"\r\n\x00")
        self.heads += 1

    def body(self, data: bytes) -> None:
        assert data
        assert self.heads == 1
        assert self.ends == 0

    def complete(self) -> None:
        assert self.heads == 1
        self.ends += 1

    def lost(self, detail: str) -> None:
        assert detail
        self.ends += 1


class TestEngines:
    @given(st.one_of(spoilt(ANSWERS), st.binary(max_size=500)), CUTS)
    def test_any_answer_ends_once(self, answer: bytes, at: list[int]) -> None:
        connection = Connection(Engines(connect_seconds=1), ("127.0.0.1", 1))
        transport = Transport()
        connection.connection_made(cast("asyncio.Transport", transport))
        listener = Listener()
        connection.send(listener, b"", b"")

        for piece in cut(answer, at):
            if not transport.is_closed:
                connection.data_received(piece)
        connection.connection_lost(None)

        assert listener.ends == 1


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
        st.sampled_from(["user", "text", "image_url", "llama", "x" * 600]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.text(max_size=8), st.sampled_from(["role", "content", "type", "text"])), inner),
    ),
    max_leaves=20,
)
FIELDS = (
    *("model", "stream", "messages", "prompt", "input", "n", "best_of", "max_tokens", "max_completion_tokens"),
    *("max_output_tokens", "logprobs", "top_logprobs", "stream_options", "tools", "documents", "query", "system"),
    *("previous_response_id", "text_1", "text_2", "seed", "temperature", "stop"),
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=8).map(
    lambda fields: {"model": "llama", **fields}
)


def _parse(path: str, body: bytes) -> Call | None:
    try:
        return parse_call(path, body)
    except Refusal as no:
        refusal = no
    assert refusal.status in {400, 413}
    assert orjson.loads(refusal.render(path))["error"]["message"]
    return None


class TestCalls:
    @given(PATHS, st.binary(max_size=300))
    def test_any_bytes_are_a_call_or_refused(self, path: str, body: bytes) -> None:
        _parse(path, body)

    @given(PATHS, BODIES, st.booleans())
    def test_any_json_is_a_call_or_refused_and_can_be_measured(
        self, path: str, body: dict[str, Any], long: bool
    ) -> None:
        sent = json.dumps({**body, **({"user": "x" * 5000} if long else {})}).encode()

        call = _parse(path, sent)

        if call is not None:
            assert measure_work(call, len(sent)).prompt_tokens >= 0
            asked = json.loads(ask_for_usage(call, sent))
            assert {**asked, "stream_options": 0} == {**json.loads(sent), "stream_options": 0}

    @given(
        PATHS, BODIES, st.integers(0, 10_000), st.sampled_from([*PIECES, b'"model":"x",', b"{", b"[", b'"', b"\\u0000"])
    )
    def test_spoilt_json_is_refused_or_means_to_us_what_it_means_to_python(
        self, path: str, body: dict[str, Any], at: int, piece: bytes
    ) -> None:
        sent = json.dumps(body).encode()
        sent = sent[: at % len(sent)] + piece + sent[at % len(sent) :]

        call = _parse(path, sent)

        assert call is None or json.loads(sent)["model"] == call.model

    @given(st.binary(max_size=200), st.lists(st.sampled_from([b'"usage"', b'{"prompt_tokens":1}', b":", b"}", b"{"])))
    def test_usage_is_read_out_of_anything(self, junk: bytes, pieces: list[bytes]) -> None:
        usage = read_usage(junk + b"".join(pieces) + junk)

        assert usage is None or isinstance(usage, Usage)

    @given(JSON_VALUES)
    def test_usage_of_any_shape_is_read(self, value: Any) -> None:
        read_usage(json.dumps({"choices": [], "usage": value}).encode())


EVENT_PIECES: Final = [
    *(b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}', b"data: [DONE]", b"data:"),
    *(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}', b'data: {"error":{"code":500}}'),
    *(b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', b": comment", b"event: message_stop"),
    *(b'data: {"type":"message_stop"}', b'data: {"type":"response.completed","response":{}}', b'data: {"usage":null}'),
    *(
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\n\n",
        b"\n\n",
        b"\r\n\r\n",
        b"\r\r",
        b"data",
        b"\xff",
        b"\x00",
        b"id: 1",
        b"error",
    ),
]
STREAMS = st.one_of(
    st.lists(st.sampled_from(EVENT_PIECES), max_size=20).map(b"".join),
    st.lists(st.one_of(st.sampled_from(EVENT_PIECES), st.binary(max_size=5)), max_size=20).map(b"".join),
)


def _relay(path: str, chunks: list[bytes], *, strip_usage: bool) -> tuple[bytes, bool, bool, Any]:
    """What a client gets of a stream, read until it ends."""
    reader = EventReader(path, strip_usage=strip_usage)
    passed, is_done, is_error = b"", False, False
    for chunk in chunks:
        passage = reader.read(chunk)
        passed += passage.whole
        is_done, is_error = passage.done, passage.error is not None
        if is_done or is_error:
            break
    # A line feed after a carriage return may be one line's end or another one: no event depends on it.
    return passed.rstrip(b"\r\n"), is_done, is_error, told(reader.usage)


class TestStreams:
    @given(st.sampled_from(["/v1/chat/completions", "/v1/messages", "/v1/responses"]), STREAMS, CUTS, st.booleans())
    def test_any_cut_of_any_bytes_reads_the_same(self, path: str, stream: bytes, at: list[int], strip: bool) -> None:
        end = b"\n\n"

        whole = _relay(path, [stream, end], strip_usage=strip)
        pieces = _relay(path, [*cut(stream, at), end], strip_usage=strip)

        shorter, longer = sorted((whole[0], pieces[0]), key=len)
        assert longer.startswith(shorter)
        assert pieces[1:3] == whole[1:3]
        # What follows the last event is nobody's, and may come along with it or not.
        assert pieces == whole or (whole[1] and shorter)

    @given(STREAMS, CUTS)
    def test_nothing_is_made_up_and_nothing_reordered(self, stream: bytes, at: list[int]) -> None:
        passed, _, _, _ = _relay("/v1/chat/completions", cut(stream, at), strip_usage=False)

        assert stream.startswith(passed)


KEY_TEXTS = st.one_of(
    st.text(max_size=100),
    st.binary(max_size=100),
    JSON_VALUES.map(json.dumps),
    st.dictionaries(
        st.sampled_from(["sha256", "models", "requestsPerMinute", "tokensPerDay", "priority", "expires", "note"]),
        JSON_VALUES,
    ).map(json.dumps),
    st.sampled_from(["&a [*a]", "!!python/object:os.system {}", "{a: {b: ", "- " * 200, "? " * 100, "[" * 1000]),
)


class TestKeys:
    @given(st.one_of(st.text(max_size=70), st.sampled_from(["team-a"])), KEY_TEXTS)
    @example("team-a", "[" * 5000)
    @example("team-a", "? " * 300)
    def test_any_entry_is_a_key_or_told_to_be_none(self, id_: str, content: str | bytes) -> None:
        with suppress(InvalidKey):
            assert parse_key(id_, content).id == id_

    @given(st.dictionaries(st.text(max_size=10), KEY_TEXTS, max_size=3), st.binary(max_size=300))
    def test_no_header_fits_a_key_that_nobody_has(self, entries: dict[str, object], header: bytes) -> None:
        ring, _ = build_keyring(entries)

        assert ring.find(header, now=0.0) is None
        assert ring.find(b"Bearer " + header, now=0.0) is None
        assert Keyring().find(header, now=0.0) is None


CONFIG: Final = """
models:
- name: llama
  aliases: [other]
  endpoints: ["http://127.0.0.1:8000"]
  adapters: [lora]
  queue: {maxHeld: 10}
  fallback: [small]
  routes: [{model: small, promptTokensBelow: 100}]
- {name: small, endpoints: ["http://127.0.0.1:8001"]}
keys: {required: true, entries: {}}
maxBodyBytes: 65536
"""
YAML_PIECES: Final = (
    *(
        "\n",
        "  ",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "<<: *a",
        "!!set",
        "!!python/object:os.system",
        "? ",
        "|",
    ),
    *(
        "null",
        "1e999",
        "-1",
        "0x1",
        "true",
        "~",
        "'",
        '"',
        "\x00",
        "\t",
        "---\n",
        "...",
        "models:",
        "http://[",
        "https://a:b@c",
    ),
)


def _spoil(text: str, places: list[tuple[int, str]]) -> str:
    for at, piece in places:
        text = text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) + len(piece) % 3 :]
    return text


class TestConfigs:
    @given(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(YAML_PIECES)), max_size=5))
    @example([])
    def test_any_file_is_a_configuration_or_told_where_it_is_none(self, places: list[tuple[int, str]]) -> None:
        with suppress(InvalidConfig):
            assert parse_config(_spoil(CONFIG, places)).models is not None

    @given(st.one_of(st.text(max_size=200), JSON_VALUES.map(json.dumps)))
    def test_any_text_is(self, text: str) -> None:
        with suppress(InvalidConfig):
            parse_config(text)
