"""The operator's side of adapters between an API server in memory, real sidecars and engine-sim, over real HTTP."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestServer

from images.enginesim.options import parse_options
from images.enginesim.server import Server
from lull.api.llmdeployment import Key, Manifest
from lull.doors import http, serving
from lull.doors.store import Store
from lull.fetcher.adapters import Wanted
from lull.fetcher.failures import NotFound
from lull.fetcher.shelf import Shelf
from lull.residence.loop import Residence
from tests.fakes.apiserver import FakeApiServer, connect_kube, serve_apiserver
from tests.fakes.ports import free_port
from tests.manifests import UID, manifest
from tests.unit.fetcher.test_adapters import write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

KEY = Key("default", "tiny")
LLMDEPLOYMENTS = "/apis/lull.dev/v1alpha1/namespaces/default/llmdeployments"
PODS = "/api/v1/namespaces/default/pods"


@dataclass
class Pod:
    """One replica: an engine that can be killed, beside a sidecar that outlives it."""

    name: str
    engine_port: int
    shelf: Shelf
    shelf_port: int
    restarts: int = 0
    server: TestServer | None = None
    sim: Server | None = None
    driver: asyncio.Task[None] | None = None

    async def start(self) -> None:
        options = parse_options(
            ["serve", "/nowhere", "--served-model-name", "tiny", "own", "--enable-lora", "--max-lora-rank", "16"],
            {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
        )
        self.sim = Server(options, now=0.0)
        self.driver = asyncio.create_task(self.sim.drive())
        self.server = TestServer(self.sim.app(), port=self.engine_port, host="127.0.0.1")
        await self.server.start_server()

    async def stop(self) -> None:
        assert self.server is not None
        assert self.driver is not None
        self.driver.cancel()
        await self.server.close()

    async def restart(self) -> None:
        await self.stop()
        self.restarts += 1
        await self.start()

    @property
    def loaded(self) -> set[str]:
        assert self.sim is not None
        return set(self.sim.adapters.loaded)

    def manifest(self, *, ready: bool = True, asleep: bool = False) -> Manifest:
        since = "2026-01-01T00:00:00Z"
        condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": since}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "default",
                "name": self.name,
                "uid": self.name,
                "labels": {"app.kubernetes.io/component": "engine", "lull.dev/deployment": "tiny"},
            },
            "spec": {
                "initContainers": [_container("adapters", "adapters", self.shelf_port)],
                "containers": [_container("engine", "http", self.engine_port)],
            },
            "status": {
                "podIP": "127.0.0.1",
                "containerStatuses": [{"name": "engine", "restartCount": self.restarts}],
                "conditions": [condition, *([{"type": "lull.dev/Asleep", "status": "True"}] if asleep else [])],
            },
        }


@dataclass
class Scene:
    server: FakeApiServer
    store: Store
    residence: Residence
    folder: Path
    stack: AsyncExitStack
    asked: list[str] = field(default_factory=list)
    """Sources that sidecars fetched."""
    told: list[Key] = field(default_factory=list)
    conflicts: dict[str, str] = field(default_factory=dict)
    generation: int = 0

    async def list_adapters(self, *items: str, status: Manifest | None = None, **sources: str) -> None:
        """Write the spec: adapters by name, each from a source of its own unless another is given."""
        listed = {**{name: f"hf://lull/{name}" for name in items}, **sources}
        self.generation += 1
        written = manifest(
            name="tiny", adapters={"items": [{"name": name, "source": source} for name, source in listed.items()]}
        )
        metadata = {**written["metadata"], "uid": UID, "generation": self.generation}
        await self.server.put(LLMDEPLOYMENTS, {**written, "metadata": metadata, "status": status or {}})
        await self.until(lambda: (one := self.store.find_deployment(KEY)) and one.generation == self.generation)

    async def add_pod(self, name: str = "pod-1", *, ready: bool = True) -> Pod:
        folder = self.folder / name
        folder.mkdir()
        stop = asyncio.Event()
        shelf = Shelf(folder, self._bring, Wanted(16))
        pod = Pod(name, free_port(), shelf, free_port())
        group = await self.stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(shelf.run(stop))
        self.stack.callback(stop.set)
        await self.stack.enter_async_context(serving.serve(shelf.answer, pod.shelf_port))
        await pod.start()
        self.stack.push_async_callback(pod.stop)
        await self.put(pod, ready=ready)
        return pod

    async def put(self, pod: Pod, *, ready: bool = True, asleep: bool = False) -> None:
        wanted = pod.manifest(ready=ready, asleep=asleep)
        await self.server.put(PODS, wanted)
        await self.until(lambda: wanted["status"] in [one["status"] for one in self.store.list_pods(KEY)])

    async def settle(self, done: Callable[[], object]) -> None:
        """Do the queue's work until something is so."""
        async with asyncio.timeout(10):
            while not done():
                delay = await self.residence.settle(KEY)
                await asyncio.sleep(min(delay or 0.01, 0.02))

    async def until(self, done: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not done():  # noqa: ASYNC110  what is waited for happens behind a socket
                await asyncio.sleep(0.005)

    def view(self) -> dict[str, tuple[str, int, str]]:
        deployment = self.store.find_deployment(KEY)
        assert deployment is not None
        return {one.name: (one.state.value, one.ready_replicas, one.message) for one in self.residence.view(deployment)}

    def states(self) -> dict[str, str]:
        return {name: state for name, (state, _, _) in self.view().items()}

    async def _bring(self, source: str, target: Path) -> None:
        self.asked.append(source)
        if source.endswith("missing"):
            raise NotFound(f"{source} was not found.")
        write(target, rank=64 if source.endswith("big") else 8)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        server, url = await stack.enter_async_context(serve_apiserver())
        kube = await stack.enter_async_context(connect_kube(url))
        client = await stack.enter_async_context(http.connect())
        store = Store()
        watching = asyncio.ensure_future(store.run(kube, namespace="default", on_alive=lambda _: None))
        stack.callback(watching.cancel)
        told: list[Key] = []
        conflicts: dict[str, str] = {}
        residence = Residence(client, store=store, find_conflicts=lambda _: conflicts, on_change=told.append)
        yield Scene(server, store, residence, folder, stack, told=told, conflicts=conflicts)


def _container(name: str, port: str, number: int) -> dict[str, Any]:
    return {"name": name, "ports": [{"name": port, "containerPort": number}]}
