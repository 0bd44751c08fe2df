"""A small hub on loopback: the two endpoints that the fetcher uses, and the faults that hubs have."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMIT = "a" * 40


@dataclass
class Hub:
    """Its content and faults are plain attributes; `requests` tells what was asked."""

    repository: str = "acme/tiny"
    commit: str = COMMIT
    files: dict[str, bytes] = field(default_factory=dict)
    large: frozenset[str] = frozenset()
    """Files that are stored elsewhere (LFS): reached by a redirect to another origin."""
    lies: dict[str, bytes] = field(default_factory=dict)
    """Content that is sent instead of the promised one."""
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """Per file: bytes after which each next answer breaks off."""
    statuses: list[int] = field(default_factory=list)
    """Statuses of the next answers, before any content."""
    token: str | None = None
    terse: bool = False
    """List names only, as small mirrors do."""
    ranges: bool = True
    extra_siblings: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    endpoint: str = ""
    storage: str = ""

    def downloads(self) -> list[str]:
        return [path for method, path, _ in self.requests if method == "GET" and "/api/" not in path]

    def sibling(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        if self.terse:
            return {"rfilename": name}
        lfs = {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}}
        return {
            "rfilename": name,
            "size": len(content),
            "blobId": blob_id(content),
            **(lfs if name in self.large else {}),
        }

    async def listing(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refuse(request)) is not None:
            return refusal
        if request.match_info["repository"] != self.repository or request.match_info["revision"] not in {
            "main",
            self.commit,
        }:
            return web.json_response({"error": "not found"}, status=404)
        siblings = [self.sibling(name) for name in self.files] + self.extra_siblings
        return web.json_response({"sha": self.commit, "siblings": siblings})

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refuse(request)) is not None:
            return refusal
        name = request.match_info["name"]
        if name not in self.files:
            return web.Response(status=404)
        if name in self.large:
            digest = hashlib.sha256(self.files[name]).hexdigest()
            headers = {"X-Linked-Size": str(len(self.files[name])), "X-Linked-ETag": f'"{digest}"'}
            raise web.HTTPFound(f"{self.storage}/stored/{name}", headers=headers)
        return await self._send(request, name)

    async def stored(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        return await self._send(request, request.match_info["name"])

    def _note(self, request: web.Request) -> None:
        self.requests.append((request.method, request.path, dict(request.headers)))

    def _refuse(self, request: web.Request) -> web.StreamResponse | None:
        self._note(request)
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Retry-After": "0"})
        if self.token is not None and "Authorization" not in request.headers:
            return web.Response(status=401)
        if self.token is not None and request.headers["Authorization"] != f"Bearer {self.token}":
            return web.Response(status=403)
        return None

    async def _send(self, request: web.Request, name: str) -> web.StreamResponse:
        content = self.lies.get(name, self.files[name])
        asked = request.http_range if self.ranges else slice(None)
        start = asked.start or 0
        etag = {"ETag": f'"{blob_id(self.files[name])}"'}
        partial = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        response = web.StreamResponse(status=206 if start else 200, headers={**etag, **partial})
        response.content_length = len(content) - start
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        cuts = self.cut_after.get(name)
        if cuts:
            await response.write(content[start : start + cuts.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(content[start:])
        return response


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@asynccontextmanager
async def serve(hub: Hub) -> AsyncIterator[Hub]:
    """Run the hub, and its storage as another origin."""
    hub.endpoint = hub.storage = ""
    api = web.Application()
    api.router.add_get("/api/models/{repository:[^/]+/[^/]+}/revision/{revision}", hub.listing)
    api.router.add_get("/{repository:[^/]+/[^/]+}/resolve/{commit}/{name:.+}", hub.resolve)
    storage = web.Application()
    storage.router.add_get("/stored/{name:.+}", hub.stored)
    runners = [web.AppRunner(app, shutdown_timeout=1) for app in (api, storage)]
    try:
        addresses = []
        for runner in runners:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            addresses.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        hub.endpoint, hub.storage = addresses
        yield hub
    finally:
        for runner in runners:
            await runner.cleanup()
