"""An API server that is called directly: objects, lists and watches, which may be late, repeat themselves or end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import aiohttp
from kubernetes.aio.client import Configuration

from lull.doors.kube import Kube

Manifest = dict[str, Any]

LATEST = 3.0
"""Seconds that a watch may be late: the autoscaler believes for five that what it wrote is there."""


@dataclass(frozen=True)
class Write:
    """One write of somebody's to a replica count."""

    at: float
    manager: str
    before: int
    replicas: int


@dataclass
class ApiServer:
    """Objects by collection path."""

    chance: Random
    is_troubled: bool = False
    """Whether watches are late, repeat events and end."""
    on_write: Callable[[str, str], Awaitable[None]] | None = None
    """Called with `before` and `after`, and the path, of each write of the operator: it may never return."""
    scales: list[Write] = field(default_factory=list)
    events: int = 0
    _objects: dict[str, dict[str, Manifest]] = field(default_factory=dict)
    _version: int = 1
    _log: list[tuple[float, int, str, str, Manifest]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def connect(self) -> Kube:
        configuration = Configuration()
        configuration.host = ""
        return Kube(cast("aiohttp.ClientSession", _Session(self)), configuration)

    def list(self, collection: str) -> list[Manifest]:
        return list(self._objects.get(collection, {}).values())

    def put(self, collection: str, manifest: Manifest) -> Manifest:
        name = manifest["metadata"]["name"]
        family = self._objects.setdefault(collection, {})
        kind = "MODIFIED" if name in family else "ADDED"
        stored = self._stamp(manifest)
        family[name] = stored
        self._record(collection, kind, stored)
        return stored

    def remove(self, collection: str, name: str) -> None:
        self._record(collection, "DELETED", self._stamp(self._objects[collection].pop(name)))

    def scale(self, path: str, replicas: int, *, manager: str) -> Manifest:
        """Write a replica count as somebody."""
        collection, _, name = path.rpartition("/")
        workload = self._objects[collection][name]
        before = workload["spec"]["replicas"]
        self.scales.append(Write(_now(), manager, before, replicas))
        others = [entry for entry in workload["metadata"]["managedFields"] if entry["manager"] != manager]
        fields = [*others, {"manager": manager, "subresource": "scale"}]
        if before == replicas and fields == workload["metadata"]["managedFields"]:
            return workload
        metadata = {**workload["metadata"], "managedFields": fields}
        return self.put(
            collection, {**workload, "metadata": metadata, "spec": {**workload["spec"], "replicas": replicas}}
        )

    async def write(self, path: str, query: dict[str, str], body: Manifest) -> tuple[int, Manifest]:
        """A write of the operator."""
        if self.on_write is not None:
            await self.on_write("before", path)
        if path.endswith("/scale"):
            written = self.scale(path.removesuffix("/scale"), body["spec"]["replicas"], manager=query["fieldManager"])
        else:
            assert body["kind"] == "Event", body
            self.events += 1
            written = body
        if self.on_write is not None:
            await self.on_write("after", path)
        return 200, written

    def read(self, path: str) -> tuple[int, Manifest]:
        if "/namespaces/" not in path:
            # Discovery: no kind that a cluster may lack is there.
            return 404, {"code": 404}
        return 200, {"metadata": {"resourceVersion": str(self._version)}, "items": self.list(path)}

    async def watch(self, path: str, since: int) -> AsyncIterator[bytes]:
        """Events in their order, some late, some twice, until the server has had enough."""
        seen = since
        while True:
            changed = self._changed
            for at, version, collection, kind, manifest in tuple(self._log):
                if version <= seen or collection != path:
                    continue
                seen, repeats = version, 1
                if self.is_troubled:
                    await asyncio.sleep(max(0.0, at + self.chance.uniform(0, LATEST) * self.chance.random() - _now()))
                    repeats = self.chance.choice([1, 1, 1, 2])
                for _ in range(repeats):
                    yield json.dumps({"type": kind, "object": manifest}).encode() + b"\n"
                if self.is_troubled and self.chance.random() < 0.05:
                    return
            await changed.wait()

    def _stamp(self, manifest: Manifest) -> Manifest:
        self._version += 1
        return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self._version)}}

    def _record(self, collection: str, kind: str, manifest: Manifest) -> None:
        self._log.append((_now(), self._version, collection, kind, manifest))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


@dataclass
class _Response:
    status: int
    answer: Manifest
    lines: AsyncIterator[bytes] | None = None

    @property
    def content(self) -> _Response:
        return self

    async def read(self) -> bytes:
        return json.dumps(self.answer).encode()

    def iter_any(self) -> AsyncIterator[bytes]:
        assert self.lines is not None
        return self.lines


@dataclass
class _Session:
    """As much of a session as `Kube` uses."""

    server: ApiServer

    @asynccontextmanager
    async def request(
        self, method: str, url: str, *, params: dict[str, str] | None, data: bytes | None, **_: object
    ) -> AsyncIterator[_Response]:
        if method == "GET":
            yield _Response(*self.server.read(url))
        else:
            assert data is not None
            yield _Response(*await self.server.write(url, dict(params or {}), json.loads(data)))

    @asynccontextmanager
    async def get(self, url: str, *, params: dict[str, str], **_: object) -> AsyncIterator[_Response]:
        lines = self.server.watch(url, int(params["resourceVersion"]))
        yield _Response(200, {}, lines)


def _now() -> float:
    return asyncio.get_running_loop().time()
