"""An API server in memory, over real HTTP: objects, resource versions, lists and watches. Nothing is validated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from kubernetes.aio.client import Configuration

from lull.doors.kube import Kube

Manifest = dict[str, Any]


@dataclass
class FakeApiServer:
    """Objects by collection path; `is_gone` makes every request fail, as a server behind a broken network does."""

    objects: dict[str, dict[str, Manifest]] = field(default_factory=dict)
    version: int = 1
    is_gone: bool = False
    writes: list[tuple[str, str]] = field(default_factory=list)
    _log: list[tuple[int, str, str, Manifest]] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def put(self, collection: str, manifest: Manifest) -> Manifest:
        """Store an object and tell the watches."""
        name = manifest["metadata"]["name"]
        family = self.objects.setdefault(collection, {})
        async with self._changed:
            self.version += 1
            kind = "MODIFIED" if name in family else "ADDED"
            stored = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self.version)}}
            family[name] = stored
            self._log.append((self.version, collection, kind, stored))
            self._changed.notify_all()
        return stored

    async def remove(self, collection: str, name: str) -> None:
        async with self._changed:
            self.version += 1
            gone = self.objects[collection].pop(name)
            gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
            self._log.append((self.version, collection, "DELETED", gone))
            self._changed.notify_all()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.is_gone:
            return web.json_response({"code": 503, "message": "gone"}, status=503)
        match request.method:
            case "GET" if request.query.get("watch"):
                return await self._watch(request)
            case "GET" if request.path in self.objects or request.path.rsplit("/", 1)[1].endswith("s"):
                items = list(self.objects.get(request.path, {}).values())
                return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
            case "GET":
                collection, name = request.path.rsplit("/", 1)
                return _found(self.objects.get(collection, {}).get(name))
            case "POST":
                manifest = await request.json()
                self.writes.append(("POST", request.path))
                if manifest["metadata"]["name"] in self.objects.get(request.path, {}):
                    return _conflict()
                return web.json_response(await self.put(request.path, manifest), status=201)
            case "PUT":
                collection, name = request.path.rsplit("/", 1)
                manifest = await request.json()
                self.writes.append(("PUT", request.path))
                stored = self.objects.get(collection, {}).get(name)
                if stored is None:
                    return _found(None)
                if manifest["metadata"].get("resourceVersion") != stored["metadata"]["resourceVersion"]:
                    return _conflict()
                return web.json_response(await self.put(collection, manifest))
            case _:
                collection, name = request.path.rsplit("/", 1)
                self.writes.append((request.method, request.path))
                return web.json_response(await self.put(collection, await request.json()))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        seen = int(request.query["resourceVersion"])
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: any(entry[0] > seen for entry in self._log))
                news = [entry for entry in self._log if entry[0] > seen]
            for version, collection, kind, manifest in news:
                seen = version
                if collection == request.path:
                    await response.write(json.dumps({"type": kind, "object": manifest}).encode() + b"\n")


@asynccontextmanager
async def serve_apiserver() -> AsyncIterator[tuple[FakeApiServer, str]]:
    """The server and its URL."""
    server = FakeApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connect_kube(url: str) -> AsyncIterator[Kube]:
    configuration = Configuration()
    configuration.host = url
    async with aiohttp.ClientSession() as session:
        yield Kube(session, configuration)


def _found(manifest: Manifest | None) -> web.Response:
    if manifest is None:
        return web.json_response({"code": 404, "message": "not found"}, status=404)
    return web.json_response(manifest)


def _conflict() -> web.Response:
    return web.json_response({"code": 409, "message": "conflict"}, status=409)
