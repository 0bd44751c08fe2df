"""A whole gateway in this process: real sockets, the real Kubernetes client, an API server and engines in memory."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest

from lull.api import names
from lull.doors.kube import connect
from lull.gateway.server import serve
from lull.gateway.sources import Cluster
from lull.settings import GatewaySettings
from tests.fakes.engine import FakeEngine
from tests.fakes.kube import FakeKube
from tests.fakes.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from aiohttp import web

NAMESPACE = "team-a"


class Reachable(Protocol):
    """Whatever listens on a port of this machine."""

    @property
    def port(self) -> int: ...


class World:
    def __init__(self, kube: FakeKube, settings: GatewaySettings, session: aiohttp.ClientSession) -> None:
        self.kube = kube
        self.settings = settings
        self.session = session
        self.stop = asyncio.Event()
        self.url = f"http://127.0.0.1:{settings.port}"
        self.admin = f"http://127.0.0.1:{settings.admin_port}"
        self._engines = AsyncExitStack()

    def add_model(self, name: str = "llama", *, aliases: tuple[str, ...] = (), **spec: Any) -> None:
        self.kube.put(
            "llmdeployments",
            {
                "metadata": {
                    "namespace": NAMESPACE,
                    "name": name,
                    "uid": name,
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                },
                "spec": {"model": {"source": "hf://org/model", "aliases": list(aliases)}, **spec},
            },
        )

    def put_pod(
        self,
        engine: Reachable,
        *,
        pod: str,
        model: str = "llama",
        ready: bool = True,
        deleting: bool = False,
        node: str = "",
    ) -> None:
        self.kube.put(
            "pods",
            {
                "metadata": {
                    "namespace": NAMESPACE,
                    "name": pod,
                    "uid": f"uid-{pod}",
                    "labels": names.engine_labels(model),
                    **({"deletionTimestamp": "2026-01-02T00:00:00Z"} if deleting else {}),
                },
                "spec": {
                    "nodeName": node,
                    "containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": engine.port}]}],
                },
                "status": {
                    "podIP": "127.0.0.1",
                    "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                },
            },
        )

    async def add_engine(
        self,
        answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None,
        *,
        pod: str = "pod-1",
        model: str = "llama",
        ready: bool = True,
        node: str = "",
    ) -> FakeEngine:
        engine = await self._engines.enter_async_context(FakeEngine(answer))
        self.put_pod(engine, pod=pod, model=model, ready=ready, node=node)
        return engine

    def put_node(self, name: str, *taints: str, **spec: Any) -> None:
        listed = [{"key": taint, "effect": "NoSchedule"} for taint in taints]
        self.kube.put("nodes", {"metadata": {"name": name, "uid": name}, "spec": {"taints": listed, **spec}})

    def remove_pod(self, pod: str = "pod-1") -> None:
        self.kube.remove("pods", NAMESPACE, pod)

    def chat(self, content: str = "hi", **fields: Any) -> Any:
        body = {"model": "llama", "messages": [{"role": "user", "content": content}], **fields}
        return self.session.post(f"{self.url}/v1/chat/completions", json=body)

    async def ask(self, content: str = "hi", **fields: Any) -> tuple[int, bytes]:
        async with self.chat(content, **fields) as response:
            return response.status, await response.read()

    async def demand(self, **query: Any) -> dict[str, Any]:
        async with self.session.get(f"{self.admin}/demand", params=query) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def settle(self, **wanted: int) -> None:
        """Wait until the demand for the model is what is wanted."""
        async with asyncio.timeout(5):
            while True:
                model = (await self.demand())["models"].get(f"{NAMESPACE}/llama", {"held": 0, "inFlight": 0})
                if wanted.items() <= model.items():
                    return
                await asyncio.sleep(0.005)

    async def until(self, predicate: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not predicate():  # noqa: ASYNC110  what is waited for happens behind a socket
                await asyncio.sleep(0.005)

    async def wait_ready(self) -> None:
        async with asyncio.timeout(5):
            while True:
                try:
                    async with self.session.get(f"{self.admin}/readyz") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientConnectorError:
                    pass
                await asyncio.sleep(0.005)

    async def wait_listed(self, name: str = "llama") -> None:
        async with asyncio.timeout(5):
            while True:
                async with self.session.get(f"{self.url}/v1/models") as response:
                    if name in await response.text():
                        return
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        await self._engines.aclose()


@pytest.fixture
def running(tmp_path: Path) -> Any:
    @asynccontextmanager
    async def run(*, synced: bool = True, **overrides: Any) -> AsyncIterator[World]:
        settings = GatewaySettings(
            **{
                "port": free_port(),
                "admin_port": free_port(),
                "lame_duck_seconds": 0,
                "drain_seconds": 1,
                "sync_seconds": 0.1,
                "pod_name": "gateway-1",
                **overrides,
            }
        )
        async with AsyncExitStack() as stack:
            kube = await stack.enter_async_context(FakeKube())
            connection = await stack.enter_async_context(connect(kube.write_kubeconfig(tmp_path / "kubeconfig")))
            connector = aiohttp.TCPConnector(limit=0)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            world = World(kube, settings, session)
            stack.push_async_callback(world.close)
            if not synced:
                kube.go_away()
            group = await stack.enter_async_context(asyncio.TaskGroup())
            group.create_task(serve(settings, Cluster(connection, settings.scope), stop=world.stop))
            stack.callback(world.stop.set)
            # Idle connections would keep the gateway for a moment.
            stack.push_async_callback(session.close)
            if synced:
                await world.wait_ready()
            yield world

    return run


@pytest.fixture
async def world(running: Any) -> AsyncIterator[World]:
    async with running() as world:
        yield world
