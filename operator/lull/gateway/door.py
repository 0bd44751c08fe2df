"""Clients' connections: HTTP/1.1 read by llhttp, within limits of size, number and time.

What comes in is complete before anybody else sees it, so a slow or broken client costs a little memory and nothing
more. One request of a connection is under way at a time; those behind it wait, and the client is not read meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import secrets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import httptools

from lull.doors import clock
from lull.gateway.exchange import Exchange
from lull.gateway.outbox import Outbox
from lull.gateway.reply import Reply
from lull.wire.openai import Refusal, unavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from lull.gateway.exchange import Gateway

KEEP_ALIVE_SECONDS: Final = 75.0
"""For idle clients."""
LINGER_SECONDS: Final = 2.0
"""A client that is still sending is listened to for so long, for it to read its answer before the line is cut."""
STALL_SECONDS: Final = 120.0
"""A client that reads nothing for so long is gone."""
PARTING_SECONDS: Final = 0.5
"""A connection on which nothing is under way is kept for so long when the door closes: a request may be on its way."""
SWEEP_SECONDS: Final = 0.25

MAX_TARGET_BYTES: Final = 8 * 1024
MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
MAX_BEHIND: Final = 16
"""So many requests of one connection may wait for the one before them until its client is read no further."""
MAX_PIPELINED: Final = 64
"""So many may come at once."""
WRITE_BYTES: Final = 1 << 18
"""So much may wait to be read by a client before its engine is read no further."""
BACKLOG: Final = 4096
RETRY_AFTER_FULL: Final = 5.0

_MAX_REQUEST_ID: Final = 128
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# A name or an address, and a port. What else a Host may be, frameworks have read paths out of (CVE-2026-48710).
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]*|\[[0-9A-Za-z:.%]+\])(?::[0-9]{0,5})?")
_SINGLE: Final = (
    *(b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"expect"),
    *(b"authorization", b"x-api-key", b"x-request-id"),
)
"""Headers of which there may be one only: of two, an engine or another door might follow the other one."""


class Request:
    """A request that is all there, or what is wrong with one that will never be."""

    __slots__ = ("body", "closing", "headers", "is_old", "method", "path", "refusal")

    def __init__(
        self,
        method: str,
        path: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        *,
        closing: bool,
        is_old: bool,
        refusal: Refusal | None,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.closing = closing
        self.is_old = is_old
        """HTTP/1.0."""
        self.refusal = refusal


class _BadHeadError(Exception):
    """What llhttp lets pass and this door does not."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Door:
    """All connections of clients, and what they have in common."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        serve: Callable[[Gateway, Exchange], None],
        refuse: Callable[[Gateway, Exchange, Refusal], None],
        leave: Callable[[Gateway, Exchange], None],
        sweep: Callable[[Gateway, float], None],
    ) -> None:
        """`serve` answers a request, `refuse` one that will never be all there.

        `leave` is told that its client is gone, `sweep` that time has passed.
        """
        self.gateway = gateway
        self.serve = serve
        self.refuse = refuse
        self.leave = leave
        self.sweep = sweep
        self.clients: set[Client] = set()
        self.is_closed = False
        self.date = b""
        self.outbox = Outbox()
        self._prefix = secrets.token_hex(6)
        self._number = 0
        self._servers: list[asyncio.Server] = []
        self._quiet = asyncio.Event()

    async def open(self, sockets: list[socket.socket]) -> None:
        """Take connections."""
        loop = asyncio.get_running_loop()
        self._tick()
        for one in sockets:
            server = await loop.create_server(
                lambda: cast("asyncio.Protocol", Client(self)), sock=one, backlog=BACKLOG, start_serving=True
            )
            self._servers.append(server)

    def close(self) -> None:
        """Take no new connections, and end those that are there as soon as nothing is under way on them."""
        self.is_closed = True
        for server in self._servers:
            server.close()
        for client in tuple(self.clients):
            client.retire()

    async def wait_closed(self, seconds: float) -> None:
        """Return once all clients have their answers and are gone; cut those that are left after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wait_quiet()
        for exchange in self.gateway.exchanges:
            exchange.is_cut = True
        for client in tuple(self.clients):
            client.abort()
        await self._wait_quiet()

    async def run(self) -> None:
        """Watch the time, for ever."""
        ticks = itertools.cycle(range(round(1 / SWEEP_SECONDS)))
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = clock.monotonic()
            self.sweep(self.gateway, now)
            if next(ticks) == 0:
                self._tick()
                for client in tuple(self.clients):
                    if now >= client.due:
                        client.expire()

    def make_request_id(self) -> str:
        """For a request that brings none."""
        self._number += 1
        return self._prefix + str(self._number)

    def forget(self, client: Client) -> None:
        self.clients.discard(client)
        if not self.clients:
            self._quiet.set()

    async def _wait_quiet(self) -> None:
        while self.clients:
            self._quiet.clear()
            await self._quiet.wait()

    def _tick(self) -> None:
        self.date = clock.http_date()


class Client:
    """One connection of a client."""

    __slots__ = (
        "_body",
        "_closing",
        "_exchange",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_host",
        "_is_begun",
        "_is_gone",
        "_is_lingering",
        "_is_old",
        "_is_paused",
        "_is_serving",
        "_parser",
        "_queue",
        "_silent_bytes",
        "_size",
        "_target",
        "_wire_bytes",
        "door",
        "due",
        "is_full",
        "knows_chunks",
        "transport",
    )

    transport: asyncio.Transport
    _target: bytes
    _headers: list[tuple[bytes, bytes]]
    _body: bytes | bytearray
    _head_bytes: int
    _head_done: bool
    _is_old: bool
    _size: int

    def __init__(self, door: Door) -> None:
        self.door = door
        self.due = math.inf
        """When the client has taken too long for what it is doing."""
        self.is_full = False
        """It has more to read than it reads."""
        self.knows_chunks = True
        """The request that is answered is HTTP/1.1."""
        self._exchange: Exchange | None = None
        self._queue: deque[Request] = deque()
        self._is_serving = False
        self._is_gone = False
        self._is_paused = False
        self._is_lingering = False
        self._closing = False
        self._host = b""
        """The last that was looked at and found good."""
        self._silent_bytes = 0
        """What came in since the parser last told of anything: it keeps what it has not seen the end of."""
        self._wire_bytes = 0
        """What came in for the request that is being read, roughly: a body costs more in small chunks."""
        self._parser: httptools.HttpRequestParser | None = None
        self._reset()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_BYTES)
        self.due = clock.monotonic() + KEEP_ALIVE_SECONDS
        self.door.clients.add(self)
        if self.door.is_closed:
            # It was on its way in.
            self.retire()
        if len(self.door.clients) > self.door.gateway.settings.max_connections:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        self._silent_bytes += len(data)
        self._wire_bytes += len(data)
        rest: bytes | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._break_off(error)
        else:
            self._check_wire()
        if rest is not None:
            # Not while the exception is handled: it would pass for the cause of the next one.
            self._ignore_upgrade(rest)
        elif not self._is_serving:
            self._serve()

    def eof_received(self) -> None:
        # A client that sends no more is one that has left: whoever closes a connection looks like this.
        return None

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  every reason is the same to us
        self._is_gone = True
        self.door.gateway.pending_bytes -= self._size + sum(len(request.body) for request in self._queue)
        self._queue.clear()
        self._size = 0
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self.door.leave(self.door.gateway, exchange)
        self.door.forget(self)
        self._parser = None

    def pause_writing(self) -> None:
        self.is_full = True
        if self._exchange is not None:
            self.due = clock.monotonic() + STALL_SECONDS
            if self._exchange.relay is not None:
                self._exchange.relay.pause()

    def resume_writing(self) -> None:
        self.is_full = False
        if self._exchange is not None:
            self.due = math.inf
            if self._exchange.relay is not None:
                self._exchange.relay.resume()
        elif self._queue and not self._is_serving:
            self._serve()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._reset()
        self._is_begun = True
        self._silent_bytes = self._wire_bytes = 0
        if self._exchange is None and not self._queue:
            self.due = clock.monotonic() + self.door.gateway.settings.head_seconds

    def on_url(self, url: bytes) -> None:
        self._silent_bytes = 0
        self._target += url
        if len(self._target) > MAX_TARGET_BYTES:
            raise _BadHeadError(Refusal(414, "The request's target is too long.", code="uri_too_long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._silent_bytes = 0
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES or len(self._headers) >= MAX_HEADERS:
            raise _BadHeadError(Refusal(431, "The request's headers are too large.", code="headers_too_large"))
        if self._head_done:
            # A trailer: it must not be mistaken for what a header of that name would say.
            return
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_done = True
        gateway = self.door.gateway
        self._check_version()
        announced, expects = self._check_head()
        if announced:
            self._check_size(gateway, announced, announced)
        if self._exchange is None and not self._queue:
            self.due = clock.monotonic() + gateway.settings.body_seconds
            if expects:
                self.write(_CONTINUE)

    def on_body(self, data: bytes) -> None:
        gateway = self.door.gateway
        size = len(data)
        self._check_size(gateway, self._size + size, size)
        self._silent_bytes = 0
        gateway.pending_bytes += size
        if self._size == 0:
            self._body = data
        else:
            # Pieces joined at the end would cost more than they hold where somebody sends one byte at a time.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        self._size += size

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._parser.should_upgrade():
            return
        self._accept()

    # What the reply calls.

    def write(self, data: bytes) -> None:
        """Send a part of an answer, now: whoever reads a stream wants each event when it is there."""
        if not self._is_gone:
            self.door.outbox.flush()
            self.transport.write(data)

    def write_whole(self, data: bytes) -> None:
        """Send an answer, together with others where many are under way."""
        if not self._is_gone:
            self.door.outbox.write(self.transport, data)

    def answered(self, *, closing: bool) -> None:
        """The request that is under way has its answer."""
        self._exchange = None
        if closing:
            self._hang_up()
            return
        if self._closing:
            # The answer began before that was so, and its client has not been told.
            self._part_soon()
        if self._is_serving:
            return
        if self._queue and not self.is_full:
            # In a turn of its own: whoever answered has something left to do with the exchange.
            asyncio.get_running_loop().call_soon(self._serve)
        else:
            self._rest()

    def abort(self) -> None:
        """Cut the connection, whatever is on its way."""
        if not self._is_gone:
            self.door.outbox.flush()
            self.transport.abort()

    # What the door calls.

    def retire(self) -> None:
        """Close with the next answer, or soon where there is none to give."""
        self._closing = True
        self._part_soon()

    def expire(self) -> None:
        """The client has taken too long."""
        if self._exchange is not None or self._queue or self._is_lingering or not self._is_begun:
            # It reads nothing, sends what nobody wants, or has been idle.
            self.abort()
            return
        self.due = math.inf
        what = "body" if self._head_done else "head"
        seconds = (
            self.door.gateway.settings.body_seconds if self._head_done else self.door.gateway.settings.head_seconds
        )
        refusal = Refusal(408, f"The request's {what} did not arrive within {seconds:g} s.", code=f"{what}_timeout")
        self._refuse(refusal)
        if not self._is_serving:
            self._serve()

    def _serve(self) -> None:
        """Answer what is there, one after the other."""
        self._is_serving = True
        while self._queue and self._exchange is None and not self.is_full and not self._is_gone:
            self._begin(self._queue.popleft())
        self._is_serving = False
        if self._is_gone:
            return
        # A client whose connection is not read cannot be seen to leave, so a few may wait before that.
        self._read(len(self._queue) < MAX_BEHIND)
        if self._exchange is None:
            self._rest()

    def _read(self, wanted: bool) -> None:
        if wanted == self._is_paused:
            self._is_paused = not wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _rest(self) -> None:
        """Nothing is under way: from the end of an answer on the client has so long for what comes next."""
        if self._is_lingering or self.due != math.inf:
            return
        settings = self.door.gateway.settings
        seconds = settings.body_seconds if self._head_done else settings.head_seconds
        self.due = clock.monotonic() + (seconds if self._is_begun else KEEP_ALIVE_SECONDS)

    def _begin(self, request: Request) -> None:
        gateway = self.door.gateway
        self.due = math.inf
        self.knows_chunks = not request.is_old
        reply = Reply(
            self,
            request.path,
            request_id=_find_request_id(request.headers) or self.door.make_request_id(),
            closing=request.closing or gateway.stopping or self._closing,
            has_body=request.method != "HEAD",
        )
        exchange = Exchange(
            request.method, request.path, request.headers, request.body, reply=reply, arrived_at=clock.monotonic()
        )
        if request.refusal is not None:
            self._is_lingering = True
            self.door.refuse(gateway, exchange, request.refusal)
            return
        self._exchange = exchange
        self.door.serve(gateway, exchange)

    def _accept(self) -> None:
        """A request is all there."""
        assert self._parser is not None
        if len(self._queue) >= MAX_PIPELINED:
            raise _BadHeadError(
                unavailable(
                    429,
                    "Too many requests at once on one connection.",
                    code="pipeline_full",
                    retry_after=RETRY_AFTER_FULL,
                )
            )
        path, _, _ = self._target.partition(b"?")
        self._queue.append(
            Request(
                self._parser.get_method().decode(),
                path.decode("latin-1"),
                self._headers,
                bytes(self._body),
                closing=self._is_old or not self._parser.should_keep_alive(),
                is_old=self._is_old,
                refusal=None,
            )
        )
        self._reset()

    def _refuse(self, refusal: Refusal) -> None:
        """Say no to a request that is not all there, after those before it; nothing is read from this client any more."""
        self.door.gateway.pending_bytes -= self._size
        path, _, _ = self._target.partition(b"?")
        method = self._parser.get_method().decode() if self._parser is not None and self._target else ""
        self._queue.append(
            Request(
                method,
                path.decode("latin-1"),
                self._headers,
                b"",
                closing=True,
                is_old=self._is_old,
                refusal=refusal,
            )
        )
        self._reset()
        self._is_lingering = True

    def _check_wire(self) -> None:
        """Give up on a client that sends much and says little: what has no end, and chunks of next to nothing."""
        if self._silent_bytes > MAX_HEAD_BYTES:
            self._refuse(Refusal(431, "A part of the request has no end.", code="headers_too_large"))
        elif self._wire_bytes > 2 * (self.door.gateway.settings.max_body_bytes + MAX_HEAD_BYTES):
            self._refuse(Refusal(413, "The request comes in too many pieces.", code="body_too_large"))

    def _break_off(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if isinstance(cause, _BadHeadError):
            self._refuse(cause.refusal)
        elif isinstance(error, httptools.HttpParserCallbackError):
            raise error
        else:
            self._refuse(Refusal(400, f"This is not HTTP/1.1: {error}", code="invalid_http"))

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Answer in HTTP/1.1, as if no other protocol had been offered.

        Java's own client offers h2c with every request. llhttp stops at the end of such a head, so the body is read
        by a parser that is told the same head without the offer.
        """
        assert self._parser is not None
        method = self._parser.get_method()
        headers = [
            (name, value) for name, value in self._headers if name not in {b"connection", b"upgrade", b"http2-settings"}
        ]
        if method == b"CONNECT":
            self._refuse(Refusal(405, "There are no tunnels here.", code="method_not_allowed"))
            self._serve()
            return
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        target = self._target
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, head, rest))

    def _part_soon(self) -> None:
        asyncio.get_running_loop().call_later(PARTING_SECONDS, self._part)

    def _part(self) -> None:
        if self._exchange is None and not self._queue and not self._is_begun and not self._is_lingering:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._is_gone:
            return
        self.door.outbox.flush()
        self.door.gateway.pending_bytes -= sum(len(request.body) for request in self._queue)
        self._queue.clear()
        self._read(wanted=True)
        if self._is_lingering:
            # It is still sending. Cut now, its system would throw away the answer that it has not read yet.
            self.due = clock.monotonic() + LINGER_SECONDS
            if self.transport.can_write_eof():
                self.transport.write_eof()
        else:
            self.transport.close()

    def _check_version(self) -> None:
        assert self._parser is not None
        version = self._parser.get_http_version()
        self._is_old = version == "1.0"
        if version != "1.1" and not self._is_old:
            raise _BadHeadError(Refusal(400, "Only HTTP/1.1 is spoken here.", code="http_version"))

    def _check_head(self) -> tuple[int, bytes]:
        """Refuse what cannot be answered; the body's length, where it is told, and what the client expects."""
        fields = dict(self._headers)
        if len(fields) != len(self._headers):
            self._check_repeated()
        host = fields.get(b"host")
        if host is None:
            if not self._is_old:
                raise _BadHeadError(Refusal(400, "There must be a Host header.", code="invalid_host"))
        elif host != self._host:
            if not _HOST.fullmatch(host.rstrip(b" \t")):
                raise _BadHeadError(Refusal(400, "The Host header is no host.", code="invalid_host"))
            self._host = host
        coding = fields.get(b"transfer-encoding")
        # llhttp goes by the last coding of a list; of HTTP/1.0 others might not expect any.
        if coding is not None and (self._is_old or coding.strip().lower() != b"chunked"):
            raise _BadHeadError(Refusal(400, "The only Transfer-Encoding is chunked.", code="invalid_http"))
        if fields.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise _BadHeadError(Refusal(415, "Send the body without Content-Encoding.", code="unsupported_encoding"))
        expects = b"" if self._is_old else fields.get(b"expect", b"").strip().lower()
        if expects and expects != b"100-continue":
            raise _BadHeadError(Refusal(417, "Only 100-continue can be expected.", code="expectation_failed"))
        return int(fields.get(b"content-length", 0)), expects

    def _check_repeated(self) -> None:
        names = [name for name, _ in self._headers]
        for name in _SINGLE:
            if names.count(name) > 1:
                raise _BadHeadError(
                    Refusal(400, f"There must be one {name.decode()} header only.", code="repeated_header")
                )

    def _check_size(self, gateway: Gateway, size: int, added: int) -> None:
        limit = gateway.settings.max_body_bytes
        if size > limit:
            raise _BadHeadError(Refusal(413, f"The body is larger than {limit} bytes.", code="body_too_large"))
        if gateway.pending_bytes + added > gateway.settings.max_pending_bytes:
            raise _BadHeadError(
                unavailable(
                    503,
                    "The gateway has no memory left for this request.",
                    code="overloaded",
                    retry_after=RETRY_AFTER_FULL,
                )
            )

    def _reset(self) -> None:
        self._target = b""
        self._headers = []
        self._head_bytes = 0
        self._head_done = False
        self._is_old = False
        self._is_begun = False
        self._body = b""
        self._size = 0


def _find_request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's own, where it is harmless to log and to pass on."""
    for name, value in headers:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            return given if 0 < len(given) <= _MAX_REQUEST_ID and given.isascii() and given.isprintable() else ""
    return ""
