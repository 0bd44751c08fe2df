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
    """Objects by collection path. While it `is_gone` every request fails; while it `is_stuck`, none is answered."""

    objects: dict[str, dict[str, Manifest]] = field(default_factory=dict)
    version: int = 1
    is_gone: bool = False
    is_stuck: bool = False
    is_curt: bool = False
    """Each watch ends, well, as soon as it has begun."""
    page: str = ""
    """What a proxy says with a 200 in place of every answer."""
    refused: dict[str, int] = field(default_factory=dict)
    """Collections that are answered with this HTTP status."""
    watches: int = 0
    writes: list[tuple[str, str]] = field(default_factory=list)
    _log: list[tuple[int, str, str, Manifest]] = field(default_factory=list)
    _cuts: int = 0
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

    async def cut(self) -> None:
        """End all watches, in good order."""
        async with self._changed:
            self._cuts += 1
            self._changed.notify_all()

    async def hide(self, collection: str, name: str) -> None:
        """Delete an object and tell no watch of it."""
        async with self._changed:
            self.version += 1
            del self.objects[collection][name]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        while self.is_stuck:  # noqa: ASYNC110  a test's switch
            await asyncio.sleep(0.01)
        failure = self._fail(request)
        if failure is not None:
            return failure
        if request.method != "GET":
            return await self._write(request)
        if request.query.get("watch"):
            return await self._watch(request)
        collection, _, name = request.path.rpartition("/")
        if name.endswith("s"):
            items = list(self.objects.get(request.path, {}).values())
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        return _found(self.objects.get(collection, {}).get(name))

    def _fail(self, request: web.Request) -> web.Response | None:
        if self.page:
            return web.Response(text=self.page, content_type="text/html")
        if self.is_gone:
            return web.json_response({"code": 503, "message": "gone"}, status=503)
        if request.path in self.refused:
            return web.json_response({"code": self.refused[request.path]}, status=self.refused[request.path])
        return None

    async def _write(self, request: web.Request) -> web.Response:
        self.writes.append((request.method, request.path))
        manifest = await request.json()
        if request.content_type == "application/merge-patch+json":
            return await self._merge(request.path.removesuffix("/status"), manifest)
        if request.method == "DELETE":
            return await self._delete(*request.path.rsplit("/", 1), uid=manifest["preconditions"]["uid"])
        collection = request.path if request.method == "POST" else request.path.rpartition("/")[0]
        stored = self.objects.get(collection, {}).get(manifest["metadata"]["name"])
        if request.method == "POST" and stored is not None:
            return _conflict()
        if request.method == "PUT":
            if stored is None:
                return _found(None)
            if manifest["metadata"].get("resourceVersion") != stored["metadata"]["resourceVersion"]:
                return _conflict()
        return web.json_response(await self.put(collection, manifest))

    async def _delete(self, collection: str, name: str, *, uid: str) -> web.Response:
        stored = self.objects.get(collection, {}).get(name)
        if stored is None:
            return _found(None)
        if stored["metadata"]["uid"] != uid:
            return _conflict()
        await self.remove(collection, name)
        return _found(stored)

    async def _merge(self, path: str, patch: Manifest) -> web.Response:
        """Replace fields of `status` of the very version that the patch names."""
        collection, _, name = path.rpartition("/")
        stored = self.objects.get(collection, {}).get(name)
        if stored is None:
            return _found(None)
        if patch["metadata"]["resourceVersion"] != stored["metadata"]["resourceVersion"]:
            return _conflict()
        merged = {**stored, "status": {**stored.get("status", {}), **patch["status"]}}
        return web.json_response(await self.put(collection, merged))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches += 1
        response = web.StreamResponse()
        await response.prepare(request)
        if self.is_curt:
            return response
        since = int(request.query["resourceVersion"])
        sent = sum(version <= since for version, *_ in self._log)
        cuts = self._cuts
        while True:
            async with self._changed:
                while len(self._log) == sent and cuts == self._cuts:
                    await self._changed.wait()
            if cuts != self._cuts:
                return response
            news, sent = self._log[sent:], len(self._log)
            for _, collection, kind, manifest in news:
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
