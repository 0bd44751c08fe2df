"""One try: a request on its way to an engine, and the answer on its way to the client, bytes untouched.

Until the first byte of the answer, whatever goes wrong is a `Failure` that another endpoint may make good. From then
on it is told to the client. vLLM reports overload and its own death inside a 200 stream, so a stream's first event is
read before anything is sent; and it answers 500 to new requests while it shuts down, so that answer is read too.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final, Protocol

from lull.core import routing
from lull.doors import clock
from lull.gateway import counting
from lull.gateway.exchange import RECORDING_BYTES, Failure, Stage
from lull.gateway.reply import EVENT_STREAM
from lull.wire.openai import Refusal
from lull.wire.sse import EventReader, parse_error
from lull.wire.usage import ask_for_usage, read_usage

if TYPE_CHECKING:
    from lull.core.routing import Candidate
    from lull.gateway.engines import Connection, Headers
    from lull.gateway.exchange import Exchange, Gateway
    from lull.wire.sse import Passage, StreamError

WHOLE_BYTES: Final = 1 << 20
"""An answer of known length up to this is read before any of it is sent: an engine's death then costs a retry only."""
KEPT_BYTES: Final = 64 * 1024
"""Comments that may come before the first event."""
TAIL_BYTES: Final = 4096
LINGER_SECONDS: Final = 0.25
"""After the last event of a stream, so long for the engine to end it, for the connection to be used again."""

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_FORWARDED: Final = _HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"http2-settings",
    b"x-api-key",
    b"x-data-parallel-rank",
    b"x-lull-cache",
    b"x-lull-heartbeat",
    b"x-lull-timeout",
    b"x-request-id",
}
_NOT_RETURNED: Final = _HOP_BY_HOP | {b"content-length", b"date", b"server", b"set-cookie", b"x-request-id"}

_BODILESS: Final = frozenset({204, 304})
_SHUTTING_DOWN: Final = "after shutdown"
_UNKNOWN_MODEL: Final = "does not exist"
_ENGINE_DEAD: Final = "EngineCore"


class Outcome(Protocol):
    """What becomes of a try, as the pipeline is told."""

    def failed(self, exchange: Exchange, failure: Failure, detail: str, /) -> None:
        """Nothing was sent to the client yet."""

    def refused(self, exchange: Exchange, refusal: Refusal, /) -> None:
        """Another endpoint would do no better."""

    def broke_off(self, exchange: Exchange, detail: str, /) -> None:
        """The client has a part of the answer, and this engine will send no more of it."""

    def finished(self, exchange: Exchange, /) -> None:
        """The client has its answer."""


class Relay:
    """One try. Its end, whichever it is, is told to the pipeline once."""

    __slots__ = (
        "_body",
        "_connection",
        "_exchange",
        "_gateway",
        "_headers",
        "_is_over",
        "_is_paused",
        "_is_reading",
        "_kept",
        "_outcome",
        "_reader",
        "_status",
        "_tail",
        "_task",
        "_was_stale",
        "_whole",
        "candidate",
    )

    def __init__(self, gateway: Gateway, exchange: Exchange, candidate: Candidate) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self.candidate = candidate
        self._outcome = gateway.outcome
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._body = b""
        self._status = 0
        self._headers: Headers = []
        self._reader: EventReader | None = None
        self._whole: bytearray | None = None
        """An answer of which nothing is sent before its end."""
        self._kept = b""
        """Comments before the first event; they wait for it."""
        self._tail = b""
        """The end of a long answer: its usage is there."""
        self._is_over = False
        self._is_paused = False
        self._is_reading = False
        """The prompt is with the engine, and the beginning of the answer will tell that it was read."""
        self._was_stale = False

    def start(self) -> None:
        """Ask the engine."""
        exchange = self._exchange
        self._body = ask_for_usage(exchange.call, exchange.body, each=exchange.tap is not None)
        routing.record_start(self.candidate, exchange.work)
        if exchange.work.pending and exchange.work.output_tokens:
            if exchange.call.stream:
                self._is_reading = True
                self.candidate.reading.start(now=clock.monotonic())
            else:
                self.candidate.reading.wholes += 1
        self._gateway.relays.add(self)
        self._task = self._gateway.engines.take(self.candidate.endpoint, self)

    def lose(self) -> None:
        """The pod no longer exists: nothing that it was asked will be answered."""
        self._fail_or_break(Failure.BROKEN, "pod deleted")

    def expire(self) -> None:
        """The engine has been silent for too long, or its answer is too long in coming to an end."""
        exchange = self._exchange
        is_total = clock.monotonic() >= exchange.total_due
        if exchange.begun_at is not None:
            self._break_off("the answer took too long" if is_total else "the engine fell silent")
            return
        self._close()
        seconds = exchange.limits.total_seconds if is_total else exchange.first_byte_seconds
        self._outcome.refused(
            exchange,
            Refusal(
                504,
                f"The engine did not {'finish' if is_total else 'answer'} within {seconds:g} s.",
                kind="server_error",
                code="engine_timeout",
            ),
        )

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        if not self._is_over:
            self._close()

    def pause(self) -> None:
        """The client cannot take more at present."""
        if self._connection is not None and not self._is_paused:
            self._is_paused = True
            self._connection.transport.pause_reading()
            self._exchange.due = math.inf

    def resume(self) -> None:
        if self._connection is not None and self._is_paused:
            self._is_paused = False
            self._connection.transport.resume_reading()
            self._exchange.due = self._find_due()

    # What the connection calls.

    def connected(self, connection: Connection) -> None:
        self._task = None
        if self._is_over:
            connection.close()
            return
        self._connection = connection
        connection.send(self, self._request_head(), self._body)

    def unreachable(self, detail: str) -> None:
        self._task = None
        # What a stale connection was asked may have been its engine's end.
        self._fail(Failure.BROKEN if self._was_stale else Failure.NOT_CONNECTED, detail)

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        self._status = status
        self._headers = headers
        if status == 503:
            self._fail(Failure.REFUSED, "503")
        elif status in {502, 504}:
            self._fail(Failure.BROKEN, str(status))
        elif status == 200 and _is_event_stream(headers):
            exchange = self._exchange
            self._reader = EventReader(
                exchange.call.path,
                strip_usage=exchange.call.hides_usage,
                leaves_each=exchange.tap is not None,
                fingerprint=self.candidate.fingerprint,
            )
        elif length <= WHOLE_BYTES if length is not None else status == 500 or status in _BODILESS:
            self._whole = bytearray()

    def body(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._reader is not None:
            self._read_events(self._reader, data)
        elif self._whole is not None:
            self._whole += data
            if len(self._whole) > WHOLE_BYTES:
                self._fail(Failure.BROKEN, "an error without end")
        else:
            if self._exchange.begun_at is None:
                self._begin(is_event_stream=False)
            self._tail = (self._tail + data)[-TAIL_BYTES:]
            self._write(data)

    def complete(self) -> None:
        connection, self._connection = self._connection, None
        if self._is_paused and connection is not None:
            connection.transport.resume_reading()
        if self._is_over:
            return
        if self._reader is not None:
            self._fail_or_break(Failure.BROKEN, "the stream ended early")
        elif self._whole is not None:
            self._send_whole(bytes(self._whole))
        else:
            if self._exchange.begun_at is None:
                self._begin(is_event_stream=False)
            self._exchange.usage = read_usage(self._tail)
            self._finish()

    def lost(self, detail: str) -> None:
        connection, self._connection = self._connection, None
        if self._is_over:
            return
        if connection is not None and connection.is_stale and not self._was_stale:
            self._was_stale = True
            self._task = self._gateway.engines.take(self.candidate.endpoint, self, fresh=True)
            return
        self._fail_or_break(Failure.BROKEN, detail)

    # What becomes of the answer.

    def _send_whole(self, body: bytes) -> None:
        exchange = self._exchange
        if self._status == 500:
            failure = _find_failure(parse_error(body))
            if failure is None and self._has_other():
                failure = Failure.BROKEN, "500"
            if failure is not None:
                self._fail(*failure)
                return
        elif self._status == 404 and exchange.adapter:
            error = parse_error(body)
            if error is not None and _UNKNOWN_MODEL in error.message:
                self._fail(Failure.NO_ADAPTER, error.message)
                return
        elif self._status == 200:
            exchange.usage = read_usage(body)
            _record(exchange, body)
        routing.record_success(self.candidate)
        exchange.stage = Stage.STREAMING
        exchange.reply.send(self._status, _response_headers(self._headers), body)
        self._over()
        self._outcome.finished(exchange)

    def _has_other(self) -> bool:
        """Whether an endpoint is left that has not failed with this request: its word counts as much as this one's."""
        exchange = self._exchange
        assert exchange.deployment is not None
        asked = {*exchange.tried, self.candidate.endpoint.uid}
        candidates = self._gateway.directory.candidates(exchange.deployment.key)
        return len(asked) < self._gateway.settings.max_tries and any(
            one.endpoint.ready and one.endpoint.uid not in asked for one in candidates
        )

    def _read_events(self, reader: EventReader, data: bytes) -> None:
        exchange = self._exchange
        passage = reader.read(data)
        whole = passage.whole
        if not whole and passage.error is None and not passage.done:
            self._wait_on()
            return
        if exchange.begun_at is None:
            if not self._is_beginning(passage):
                return
        elif exchange.stage is Stage.WAITING:
            self._go_on()
        if self._kept:
            whole, self._kept = self._kept + whole, b""
        exchange.events += passage.events
        exchange.due = self._find_due()
        if exchange.tap is not None:
            if passage.error is not None and self._is_death(passage.error):
                self._break_off(passage.error.message, before=exchange.tap(_without_last(whole)))
                return
            whole = exchange.tap(whole)
        if passage.done or passage.error is not None:
            self._end_stream(passage, whole)
        elif whole:
            self._write(whole, torn=reader.torn)

    def _wait_on(self) -> None:
        """What has come waits for what follows it, and shows that the engine is alive."""
        if self._exchange.begun_at is not None:
            self._exchange.due = self._find_due()

    def _is_beginning(self, passage: Passage) -> bool:
        """Look at what comes first, before the client is told that its request succeeded."""
        if passage.error is not None and not passage.begun:
            if failure := _find_failure(passage.error, first_event=True):
                self._fail(*failure)
                return False
        elif not passage.begun:
            self._kept += passage.whole
            if len(self._kept) > KEPT_BYTES:
                self._fail(Failure.BROKEN, "comments without end before the first event")
            return False
        self._begin(is_event_stream=True)
        return True

    def _end_stream(self, passage: Passage, last: bytes) -> None:
        exchange = self._exchange
        if passage.error is not None:
            # The engine has told the client already; what is left to do is to leave out the [DONE] that follows.
            exchange.error = passage.error.message
            exchange.reply.status = 502
            exchange.recording = None
            self._close()
        else:
            self.candidate.fingerprint = self._reader.fingerprint if self._reader is not None else None
            _record(exchange, last)
            self._linger()
        exchange.reply.end(last)
        self._outcome.finished(exchange)

    def _begin(self, *, is_event_stream: bool) -> None:
        exchange = self._exchange
        self._go_on()
        exchange.reply.begin(self._status, _response_headers(self._headers), is_event_stream=is_event_stream)
        if is_event_stream:
            counting.count_beginning(self._gateway, exchange)
        exchange.due = self._find_due()

    def _go_on(self) -> None:
        """The engine answers, be it what another one has begun."""
        routing.record_success(self.candidate)
        routing.record_first_byte(self.candidate, self._exchange.work)
        self._stop_reading()
        self._exchange.stage = Stage.STREAMING

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self.candidate.reading.stop(now=clock.monotonic())

    def _is_death(self, error: StreamError) -> bool:
        """Whether an engine says inside a stream that it will never end it, and another one may."""
        return self._exchange.begun_at is not None and _find_failure(error) is not None

    def _write(self, chunk: bytes, *, torn: bool = False) -> None:
        _record(self._exchange, chunk)
        self._exchange.reply.write(chunk, torn=torn)

    def _finish(self) -> None:
        self._over()
        self._exchange.reply.end()
        self._outcome.finished(self._exchange)

    def _fail_or_break(self, failure: Failure, detail: str) -> None:
        if self._exchange.begun_at is None:
            self._fail(failure, detail)
        else:
            self._break_off(detail)

    def _fail(self, failure: Failure, detail: str) -> None:
        self._close()
        self._outcome.failed(self._exchange, failure, detail)

    def _break_off(self, detail: str, *, before: bytes = b"") -> None:
        if before:
            self._write(before)
        self._close()
        self._outcome.broke_off(self._exchange, detail)

    def _close(self) -> None:
        """Over, and the connection must not be used again: closing it is what tells the engine to stop."""
        self._over()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _linger(self) -> None:
        """Over, but for the end of the body, which follows its last event."""
        self._over()
        connection = self._connection
        if connection is not None and not connection.is_complete:
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._stop_lingering)

    def _stop_lingering(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _over(self) -> None:
        assert not self._is_over
        self._is_over = True
        self._stop_reading()
        if self._reader is not None:
            self._exchange.usage = self._reader.usage
        self._exchange.relay = None
        usage = self._exchange.usage
        routing.record_finish(
            self.candidate, self._exchange.work, cached_tokens=None if usage is None else usage.cached_tokens
        )
        self._gateway.relays.discard(self)

    def _find_due(self) -> float:
        exchange = self._exchange
        due = clock.monotonic() + exchange.idle_seconds
        return min(due, exchange.total_due)

    def _request_head(self) -> bytes:
        exchange = self._exchange
        named = b""
        lines = [f"POST {exchange.path} HTTP/1.1\r\nhost: {self.candidate.endpoint.origin[7:]}\r\n".encode()]
        for name, value in exchange.headers:
            if name == b"connection":
                named = named + b"," + value.lower() if named else value.lower()
            if name not in _NOT_FORWARDED:
                lines += (name, b": ", value, b"\r\n")
        if named and named not in {b"keep-alive", b"close"}:
            lines = _without(lines, {one.strip() for one in named.split(b",")})
        lines.append(f"x-request-id: {exchange.request_id}\r\ncontent-length: {len(self._body)}\r\n\r\n".encode())
        return b"".join(lines)


class Relays:
    """Tries that are under way, by the pod that has them, so that the loss of a pod reaches them at once.

    A machine that vanishes closes no connection. Without this its requests would wait for the longest time-out.
    """

    def __init__(self) -> None:
        self._open: dict[str, set[Relay]] = {}

    def add(self, relay: Relay) -> None:
        self._open.setdefault(relay.candidate.endpoint.uid, set()).add(relay)

    def discard(self, relay: Relay) -> None:
        uid = relay.candidate.endpoint.uid
        relays = self._open.get(uid)
        if relays is not None:
            relays.discard(relay)
            if not relays:
                del self._open[uid]

    def lose(self, uid: str) -> None:
        """The pod no longer exists."""
        for relay in tuple(self._open.get(uid, ())):
            relay.lose()


def _without_last(whole: bytes) -> bytes:
    """Events without the last of them."""
    return whole[: whole.rstrip(b"\r\n").rfind(b"\n\n") + 2] if b"\n\n" in whole.rstrip(b"\r\n") else b""


def _find_failure(error: StreamError | None, *, first_event: bool = False) -> tuple[Failure, str] | None:
    """The failure where another engine would do better than the one that reports this."""
    if error is None:
        return None
    if error.code == 503 or _SHUTTING_DOWN in error.message:
        return Failure.REFUSED, error.message
    if _ENGINE_DEAD in error.message or (first_event and error.code >= 500):
        return Failure.BROKEN, error.message
    return None


def _record(exchange: Exchange, chunk: bytes) -> None:
    if exchange.recording is None:
        return
    if len(exchange.recording) + len(chunk) > RECORDING_BYTES:
        exchange.recording = None
    else:
        exchange.recording += chunk


def _is_event_stream(headers: Headers) -> bool:
    for name, value in headers:  # noqa: SIM110  a generator costs more than the loop, and every request comes by
        if name == b"content-type" and value.startswith(EVENT_STREAM):
            return True
    return False


def _response_headers(headers: Headers) -> Headers:
    kept = [header for header in headers if header[0] not in _NOT_RETURNED]
    for name, value in headers:
        if name == b"connection":
            named = {one.strip() for one in value.lower().split(b",")}
            return [header for header in kept if header[0] not in named]
    return kept


def _without(lines: list[bytes], names: set[bytes]) -> list[bytes]:
    """Headers that the client named as meant for this connection only; each takes four pieces after the first line."""
    kept = lines[:1]
    for at in range(1, len(lines), 4):
        if lines[at] not in names:
            kept += lines[at : at + 4]
    return kept
