"""A way to a real server on loopback that breaks as ways do: it cuts answers, garbles them, refuses, and takes notes."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}
_CHUNK = 1 << 16


@dataclass
class Gate:
    """Its faults are plain attributes; `requests` tells what was asked."""

    backend: str = ""
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which each next answer that is longer breaks off."""
    garble: int = 0
    """How many of the next answers longer than a page come with another first byte."""
    statuses: list[int] = field(default_factory=list)
    """Statuses of the next answers, before any content."""
    pace: float = 0.0
    """Seconds before each 64 KiB."""
    login: str = ""
    """user:password that a token is handed out for; without one nobody needs a token."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    endpoint: str = ""

    @property
    def host(self) -> str:
        return self.endpoint.removeprefix("http://")

    def asked(self, fragment: str) -> list[dict[str, str]]:
        """Headers of each GET whose path holds the fragment."""
        return [headers for method, path, headers in self.requests if method == "GET" and fragment in path]

    async def token(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        form = await request.post()
        basic = "Basic " + base64.b64encode(self.login.encode()).decode()
        if request.headers.get("Authorization") != basic and form.get("refresh_token") != "long-lived":
            return web.Response(status=401)
        return web.json_response({"token": "short-lived"})

    async def forward(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        if self.login and headers.pop("Authorization", None) != "Bearer short-lived":
            challenge = f'Bearer realm="{self.endpoint}/token",service="registry"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        # The path as it came: signatures are over its very bytes.
        url = URL(self.backend + request.raw_path, encoded=True)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, url, headers=headers, data=await request.read(), allow_redirects=False
            ) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            await self._pass(request, answer, response)
            return response

    async def _pass(self, request: web.Request, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        length = answer.content_length or 0
        is_content = request.method == "GET" and length > 4096
        left = self.cut_after.pop(0) if is_content and self.cut_after and self.cut_after[0] < length else None
        is_garbled = is_content and self.garble > 0
        if is_garbled:
            self.garble -= 1
        async for chunk in answer.content.iter_chunked(_CHUNK):
            sent = bytes([chunk[0] ^ 255]) + chunk[1:] if is_garbled else chunk
            is_garbled = False
            if self.pace:
                await asyncio.sleep(self.pace)
            if left is not None and len(sent) >= left:
                await response.write(sent[:left])
                assert request.transport is not None
                request.transport.close()
                return
            await response.write(sent)
            left = left - len(sent) if left is not None else None


@asynccontextmanager
async def serve(gate: Gate) -> AsyncIterator[Gate]:
    """Open the gate on a port of its own; its backend may be named later."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/token", gate.token)
    app.router.add_route("*", "/{path:.*}", gate.forward)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        gate.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield gate
    finally:
        await runner.cleanup()
