"""Connections to engines: pooled, one request at a time on each, and read as HTTP/1.1 by llhttp.

A connection tells its user (`Reading`) what it reads, in the protocol's callbacks: no task, no queue in between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

from lull.gateway.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from lull.core.routing import Endpoint

KEEP_ALIVE_SECONDS: Final = 2.0
"""uvicorn closes idle connections after five seconds; one that is being closed must not get a request."""
MAX_IDLE: Final = 512
"""Idle connections that are kept for one endpoint."""
MAX_HEAD_BYTES: Final = 64 * 1024
"""For an answer's head, for its trailers, and for anything else that comes in and is no body."""

Headers = list[tuple[bytes, bytes]]


class Reading(Protocol):
    """Who has a connection, and is told what comes in."""

    def connected(self, connection: Connection, /) -> None: ...

    def unreachable(self, detail: str, /) -> None:
        """There is no connection, and will be none."""

    def head(self, status: int, headers: Headers, length: int | None, /) -> None:
        """The answer begins; its length is None where only its end tells."""

    def body(self, data: bytes, /) -> None:
        """More of the answer."""

    def complete(self) -> None:
        """The answer is all there. The connection is no longer this user's."""

    def lost(self, detail: str, /) -> None:
        """The connection is gone, or what came is not HTTP. `Connection.is_stale` tells of a harmless reason."""


class Connection:
    """One connection to an engine."""

    __slots__ = (
        "_complete",
        "_head",
        "_head_bytes",
        "_is_closed",
        "_keeps_alive",
        "_parser",
        "_pool",
        "_silent_bytes",
        "_until_close",
        "address",
        "headers",
        "idle_since",
        "is_reused",
        "on_body",
        "pieces",
        "reading",
        "started",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, pool: Engines, address: tuple[str, int]) -> None:
        self._pool = pool
        self.address = address
        self.reading: Reading | None = None
        self.pieces: list[bytes] = []
        # The parser calls list.append itself: no Python function runs for a piece of a body.
        self.on_body = self.pieces.append
        self.headers: Headers = []
        self.started = False
        """Something of the answer has come in."""
        self.is_reused = False
        self.idle_since = 0.0
        self._head: tuple[int, Headers, int | None] | None = None
        self._head_bytes = 0
        self._silent_bytes = 0
        """What came in since something of an answer did: heads that have no end, and interim answers."""
        self._until_close = False
        self._keeps_alive = True
        self._complete = False
        self._is_closed = False
        self._parser = httptools.HttpResponseParser(self)

    @property
    def is_stale(self) -> bool:
        """The engine closed an idle connection while a request was on its way to it: nothing was begun."""
        return self.is_reused and not self.started

    @property
    def is_complete(self) -> bool:
        """All of the answer has come in."""
        return self._complete

    @property
    def is_usable(self) -> bool:
        return not self._is_closed

    def send(self, reading: Reading, head: bytes, body: bytes) -> None:
        """Ask; the answer goes to `reading`."""
        self.reading = reading
        if len(body) <= 1 << 16:
            self._pool.outbox.write(self.transport, head + body)
        else:
            self.transport.writelines((head, body))

    def close(self) -> None:
        """Let go of whatever there is; closing is what tells the engine to stop."""
        self.reading = None
        if not self._is_closed:
            self._is_closed = True
            self.transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._pool.open.add(self)

    def data_received(self, data: bytes) -> None:
        reading = self.reading
        if reading is None:
            # Nobody asked for anything.
            self.close()
            return
        self.started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("the engine switched protocols")
            return
        except httptools.HttpParserError as error:
            self._fail(f"the engine's answer is not HTTP: {error}")
            return
        if self._head is None and not self.pieces and not self._complete:
            self._silent_bytes += len(data)
            if self._silent_bytes > MAX_HEAD_BYTES:
                self._fail("the engine's answer has a part without end")
            return
        self._silent_bytes = 0
        if self._head is not None:
            head, self._head = self._head, None
            reading.head(*head)
        if self.pieces:
            whole = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
            self.pieces.clear()
            reading.body(whole)
        if self._complete:
            self._end()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._is_closed = True
        self._pool.open.discard(self)
        reading, self.reading = self.reading, None
        if reading is None:
            return
        if self._until_close and error is None:
            reading.complete()
        else:
            reading.lost(str(error) if error is not None else "the engine closed the connection")

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("two answers to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is too long")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self.headers = self.headers, []
        if self._parser.get_http_version() not in {"1.1", "1.0"} or not 100 <= status < 600:
            raise ValueError("not an answer of HTTP/1.1")
        if status < 200:
            if status == 101:
                raise ValueError("the engine switched protocols")
            return
        self._keeps_alive = self._parser.should_keep_alive()
        length: int | None = None
        is_chunked = False
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise ValueError("a transfer coding other than chunked")
                is_chunked = True
        self._until_close = length is None and not is_chunked and status not in {204, 304}
        self._head = (status, headers, length)

    def on_message_complete(self) -> None:
        # An interim answer (1xx) is complete too; the one that counts comes after it.
        if self._parser.get_status_code() >= 200:
            self._complete = True

    def _end(self) -> None:
        reading, self.reading = self.reading, None
        if self._keeps_alive and not self._is_closed:
            self._complete = self.started = False
            self._head_bytes = 0
            self.headers.clear()
            self._pool.give_back(self)
        else:
            self.close()
        if reading is not None:
            reading.complete()

    def _fail(self, detail: str) -> None:
        reading = self.reading
        self.started = True
        self.close()
        if reading is not None:
            reading.lost(detail)


class Engines:
    """Connections by address. `take` gives an idle one or makes one."""

    def __init__(self, *, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self.open: set[Connection] = set()
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox()

    def take(self, endpoint: Endpoint, reading: Reading, *, fresh: bool = False) -> asyncio.Task[None] | None:
        """`reading.connected` at once where there is an idle connection, else when the Task that is returned is done."""
        address = (endpoint.host, endpoint.port)
        if not fresh:
            idle = self._idle.get(address)
            oldest = self._loop.time() - KEEP_ALIVE_SECONDS
            while idle:
                connection = idle.pop()
                if connection.is_usable and connection.idle_since >= oldest:
                    connection.is_reused = True
                    reading.connected(connection)
                    return None
                connection.close()
        return self._spawn(self._connect(address, reading))

    def give_back(self, connection: Connection) -> None:
        """Keep a connection that has nothing left to say."""
        idle = self._idle.setdefault(connection.address, [])
        if len(idle) >= MAX_IDLE:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        idle.append(connection)

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long; `now` is the event loop's."""
        oldest = now - KEEP_ALIVE_SECONDS
        for address in tuple(self._idle):
            idle = self._idle[address]
            stale = 0
            while stale < len(idle) and (idle[stale].idle_since < oldest or not idle[stale].is_usable):
                idle[stale].close()
                stale += 1
            del idle[:stale]
            if not idle:
                del self._idle[address]

    async def close(self) -> None:
        for task in tuple(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        self._idle.clear()
        # Idle ones, and those on which the end of an answer is awaited that its client has already.
        for connection in tuple(self.open):
            connection.close()
        # They are closed in the event loop's next turn.
        await asyncio.sleep(0)

    async def _connect(self, address: tuple[str, int], reading: Reading) -> None:
        connection = Connection(self, address)
        try:
            async with asyncio.timeout(self._connect_seconds):
                await self._loop.create_connection(lambda: cast("asyncio.Protocol", connection), *address)
        except TimeoutError:
            reading.unreachable(f"no connection within {self._connect_seconds:g} s")
            return
        except OSError as error:
            reading.unreachable(str(error))
            return
        if connection.is_usable:
            reading.connected(connection)
        else:
            # Nobody would be told: its end came before anybody had it.
            reading.unreachable("the engine closed the connection at once")

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._connecting.add(task)
        task.add_done_callback(self._look_after)
        return task

    def _look_after(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a connection failed its user", "exception": error})
