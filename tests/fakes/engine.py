"""An engine that does exactly what a test tells it to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

BODY = web.RequestKey("body", bytes)
CHUNKS = (
    'data: {"choices":[{"delta":{"content":"Grüße"}}]}\n\n'.encode(),
    'data: {"choices":[{"delta":{"content":"世界"}}]}\n\n'.encode(),
    b"data: [DONE]\n\n",
)


@dataclass(frozen=True)
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes


class FakeEngine:
    """Answers each request with `answer`, and remembers what it got."""

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None) -> None:
        self.answer = answer or complete
        self.received: list[Received] = []
        self.cancelled = 0
        self.health = 200
        self.checks: list[str] = []
        """The Host of each health check."""
        self.models = ("llama",)
        self.port = 0
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        self._runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True, access_log=None), shutdown_timeout=0.01
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """As a killed process: connections are cut, and nobody listens any more."""
        if self._runner is not None:
            for connection in self._runner.server.connections if self._runner.server else ():
                if connection.transport is not None:
                    connection.transport.abort()
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == "/health":
            self.checks.append(request.headers["Host"])
            return web.Response(status=self.health)
        if request.raw_path == "/v1/models" and self.checks:
            return web.json_response({"data": [{"id": name} for name in self.models]})
        body = request[BODY] = await request.content.read()
        self.received.append(Received(request.raw_path, request.headers, body))
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def complete(request: web.BaseRequest) -> web.StreamResponse:
    """What was asked for: a stream of three events, or a whole answer."""
    if orjson.loads(request[BODY]).get("stream"):
        return await stream(request, *CHUNKS)
    return web.json_response({"object": "chat.completion", "choices": []})


async def stream(request: web.BaseRequest, *chunks: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for chunk in chunks:
        await response.write(chunk)
    return response


async def die(request: web.BaseRequest) -> web.StreamResponse:
    """Cut the connection without a word."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def stream_then_die(*chunks: bytes) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = await stream(request, *chunks)
        await asyncio.sleep(0.05)
        await die(request)
        return response

    return answer


async def die_inside_a_whole_answer(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"object": ')
    await asyncio.sleep(0.02)
    return await die(request)


def fail(status: int, message: str) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"error": {"message": message, "type": "x", "code": status}}, status=status)

    return answer


def fail_inside_stream(code: int, message: str) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """As vLLM does: status 200, and the error is the first event."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        error = orjson.dumps({"error": {"message": message, "type": "x", "param": None, "code": code}})
        return await stream(request, b"data: " + error + b"\n\n", b"data: [DONE]\n\n")

    return answer


class Gate:
    """Holds every request until it is opened."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.entered.set()
        await self.opened.wait()
        return await complete(request)
