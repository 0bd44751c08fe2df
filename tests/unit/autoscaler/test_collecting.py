"""Collecting demand from gateways that come, go, restart and fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from lull.api.llmdeployment import Key
from lull.autoscaler.collecting import Collector, Timing
from lull.core.signals import Demand
from lull.doors import clock, http
from tests.fakes.apiserver import FakeApiServer, connect_kube, serve_apiserver
from tests.fakes.gateway import FakeGateway, serve_gateway

SLICES = "/apis/discovery.k8s.io/v1/namespaces/lull-system/endpointslices"
KEY = Key("default", "m")
TICK = 5.0


@dataclass
class Scene:
    server: FakeApiServer
    collector: Collector
    woken: list[Key] = field(default_factory=list)

    def demand(self) -> Demand | None:
        return self.collector.sum_demand(KEY, clock.monotonic())

    async def publish(self, name: str, *gateways: FakeGateway) -> None:
        """One slice for each gateway, as each listens on a port of its own."""
        for index, gateway in enumerate(gateways):
            await self.server.put(
                SLICES,
                {
                    "metadata": {"name": f"{name}-{index}", "namespace": "lull-system"},
                    "ports": [{"name": "admin", "port": gateway.port}],
                    "endpoints": [{"addresses": ["127.0.0.1"], "targetRef": {"name": f"{name}-{index}"}}],
                },
            )


@asynccontextmanager
async def collecting(*, stale_after: float = 10.0) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        server, url = await stack.enter_async_context(serve_apiserver())
        kube = await stack.enter_async_context(connect_kube(url))
        client = await stack.enter_async_context(http.connect())
        woken: list[Key] = []
        collector = Collector(client, timing=Timing(tick=TICK, stale_after=stale_after), on_news=woken.append)
        tasks = [
            asyncio.ensure_future(collector.run()),
            asyncio.ensure_future(
                collector.discover(kube, namespace="lull-system", service="lull-gateway-admin", on_alive=lambda _: None)
            ),
        ]
        try:
            yield Scene(server, collector, woken)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  the condition belongs to what is tested
            await asyncio.sleep(0.005)


async def test_a_held_request_is_news_at_once() -> None:
    async with collecting() as scene, serve_gateway() as gateway:
        await scene.publish("g", gateway)
        await until(lambda: gateway.polls == 2)
        began = clock.monotonic()

        await gateway.change(str(KEY), held=1)
        await until(lambda: scene.woken == [KEY])

        assert clock.monotonic() - began < TICK / 10
        demand = scene.demand()
        assert demand is not None
        assert (demand.held, demand.complete) == (1, True)


async def test_adds_up_over_gateways_and_drops_one_that_is_gone() -> None:
    async with collecting() as scene, serve_gateway() as one, serve_gateway() as two:
        await one.change(str(KEY), held=1)
        await two.change(str(KEY), held=2)
        await scene.publish("g", one, two)
        await until(lambda: (demand := scene.demand()) is not None and demand.held == 3)

        await scene.server.remove(SLICES, "g-1")

        await until(lambda: (demand := scene.demand()) is not None and demand.held == 1 and demand.complete)


async def test_a_restarted_gateway_is_heard_afresh() -> None:
    async with collecting() as scene, serve_gateway() as gateway:
        for _ in range(3):
            await gateway.change(str(KEY), held=3)
        await scene.publish("g", gateway)
        await until(lambda: scene.demand() is not None)

        await gateway.restart()
        await gateway.change(str(KEY), held=1)

        await until(lambda: (demand := scene.demand()) is not None and demand.held == 1)


async def test_a_silent_gateway_makes_demand_incomplete_and_is_named() -> None:
    async with collecting(stale_after=0.2) as scene, serve_gateway() as one, serve_gateway() as two:
        two.status = 500
        await one.change(str(KEY), held=1)
        await scene.publish("g", one, two)

        await until(lambda: (demand := scene.demand()) is not None and not demand.complete)

        assert "g-1" in scene.collector.list_silent(clock.monotonic())


async def test_nothing_is_known_without_a_gateway() -> None:
    async with collecting() as scene:
        await asyncio.sleep(0.05)

        assert scene.demand() is None


async def test_a_gateway_that_comes_back_is_heard_again() -> None:
    async with collecting() as scene, serve_gateway() as gateway:
        gateway.status = 503
        await scene.publish("g", gateway)
        await until(lambda: gateway.polls >= 2)
        assert scene.demand() is None

        gateway.status = 200

        await until(lambda: scene.demand() is not None)


@pytest.mark.parametrize("count", [50])
async def test_a_storm_of_arrivals_does_not_become_a_storm_of_polls(count: int) -> None:
    async with collecting() as scene, serve_gateway() as gateway:
        await scene.publish("g", gateway)
        await until(lambda: gateway.polls == 2)
        before = gateway.polls

        for _ in range(count):
            await gateway.change(str(KEY), held=1)
            await asyncio.sleep(0.002)

        assert gateway.polls - before < count / 2
