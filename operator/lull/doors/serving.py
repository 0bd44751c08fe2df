"""A small HTTP server for a process that is asked now and then: each call is answered at once, from memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Call:
    """A request; its body is at most a mebibyte, larger ones are refused before they get here."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content: bytes
    content_type: str = "application/json"


@asynccontextmanager
async def serve(answer: Callable[[Call], Answer], port: int) -> AsyncIterator[None]:
    """Answer calls while the block runs."""

    async def handle(request: web.BaseRequest) -> web.Response:
        given = answer(Call(request.method, request.path, await request.read()))
        return web.Response(status=given.status, body=given.content, content_type=given.content_type)

    async with listen(
        web.ServerRunner(web.Server(handle, access_log=None), handle_signals=False, shutdown_timeout=1.0), port
    ):
        yield


@asynccontextmanager
async def listen(runner: web.BaseRunner, where: int | Path) -> AsyncIterator[None]:
    """Take connections while the block runs: on all addresses of a port, or at a Unix socket."""
    await runner.setup()
    try:
        if isinstance(where, int):
            await web.TCPSite(runner, None, where, reuse_address=True).start()
        else:
            await web.UnixSite(runner, where).start()
        yield
    finally:
        async with asyncio.timeout(5):
            await runner.cleanup()
