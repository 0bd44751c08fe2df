"""Engines that answer with any bytes, and a tap that writes down every byte that reaches a real one."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from tests.hostile.raw import split_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

_LINE: Final = re.compile(rb"(GET|POST) (/[a-z0-9_/.-]*) HTTP/1\.1")


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request as an engine that reads by the letter sees it."""

    method: str
    path: str
    headers: dict[str, bytes]
    body: bytes


def read_requests(sent: bytes) -> Iterable[Arrived]:
    """Split what a gateway sent; AssertionError where two readers could split it in two ways.

    A connection may end inside the last request: a client that leaves cuts it.
    """
    rest = sent
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        line, headers = split_head(head)
        request = _LINE.fullmatch(line)
        assert request, f"no request line: {line[:200]!r}"
        if not end:
            return
        assert "transfer-encoding" not in headers
        assert headers["host"].startswith(b"127.0.0.1:"), headers["host"]
        length = int(headers.get("content-length", b"0"))
        yield Arrived(request[1].decode(), request[2].decode(), headers, rest[:length])
        rest = rest[length:]


@dataclass
class Tap:
    """A listener that passes bytes on to an engine and back, and keeps what went to the engine."""

    upstream: int
    port: int = 0
    sent: list[bytearray] = field(default_factory=list)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def arrived(self) -> list[Arrived]:
        return [request for sent in self.sent for request in read_requests(bytes(sent))]

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self.sent.append(kept)
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self.upstream)
        with suppress(ConnectionError):
            async with asyncio.TaskGroup() as group:
                back = group.create_task(_copy(upstream, writer))
                await _copy(reader, downstream, kept)
                downstream.close()
                back.cancel()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None = None) -> None:
    while chunk := await reader.read(1 << 16):
        if kept is not None:
            kept += chunk
        writer.write(chunk)
        await writer.drain()
    writer.close()


@dataclass
class RawEngine:
    """Reads each request by the letter, and answers with what `answer` writes; then the connection goes on."""

    answer: Callable[[RawEngine, Arrived, asyncio.StreamWriter], Awaitable[None]]
    port: int = 0
    arrived: list[Arrived] = field(default_factory=list)
    connections: int = 0
    left: int = 0
    """Connections that the gateway closed."""
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """As a killed process: connections are cut, and nobody listens any more."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (bare,) = read_requests(head)
                body = await reader.readexactly(int(bare.headers.get("content-length", b"0")))
                arrived = Arrived(bare.method, bare.path, bare.headers, body)
                self.arrived.append(arrived)
                answering = asyncio.ensure_future(self.answer(self, arrived, writer))
                if reader.at_eof():
                    self.left += 1
                    return
                await answering
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            self._writers.discard(writer)
            writer.close()


def saying(*pieces: bytes, pause: float = 0.0, close: bool = False) -> Callable[..., Awaitable[None]]:
    """Answer every request with these bytes."""

    async def answer(engine: RawEngine, arrived: Arrived, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if close:
            writer.close()

    return answer


WHOLE: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
EVENT: Final = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
DONE: Final = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


END: Final = b"0\r\n\r\n"
