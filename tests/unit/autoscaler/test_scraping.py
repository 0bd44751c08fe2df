"""Reading engines that answer, lie, hang and go, beside gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from lull.api.llmdeployment import Manifest
from lull.autoscaler import scraping
from lull.autoscaler.collecting import Timing
from lull.autoscaler.loop import Autoscaler
from lull.autoscaler.scraping import Scraper
from lull.core.signals import Demand
from lull.doors import clock, http
from lull.doors.events import Recorder
from lull.doors.prices import Prices
from tests.unit.autoscaler.test_loop import DEPLOYMENTS, KEY, PODS, Scene, pod, scaling, workload


@dataclass
class MeteredEngine:
    """What `/metrics` of one engine answers."""

    running: int = 0
    waiting: int = 0
    status: int = 200
    is_stuck: bool = False
    port: int = 0
    reads: int = 0
    at_once: int = 0
    most_at_once: int = 0
    _free: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, _: web.Request) -> web.Response:
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if self.is_stuck:
                await self._free.wait()
        finally:
            self.at_once -= 1
        text = f"vllm:num_requests_running {self.running}\nvllm:num_requests_waiting {self.waiting}\n"
        return web.Response(status=self.status, text=text)


@asynccontextmanager
async def serving() -> AsyncIterator[MeteredEngine]:
    engine = MeteredEngine()
    app = web.Application()
    app.router.add_get("/metrics", engine.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine.port = runner.addresses[0][1]
    try:
        yield engine
    finally:
        await runner.cleanup()


def replica(name: str, engine: MeteredEngine, *, ready: bool = True, age: float = 0.0) -> Manifest:
    known = pod(name, ready=ready, age=age)
    return {
        **known,
        "metadata": {**known["metadata"], "uid": name},
        "spec": {"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": engine.port}]}]},
        "status": {**known["status"], "podIP": "127.0.0.1"},
    }


@asynccontextmanager
async def reading(**spec: Any) -> AsyncIterator[tuple[Scene, Scraper]]:
    async with AsyncExitStack() as stack:
        scene = await stack.enter_async_context(scaling(**spec))
        client = await stack.enter_async_context(http.connect())
        # No matter of these tests, on a machine that is busy.
        scene.collector._timing = Timing(tick=0.05, stale_after=60.0)
        yield scene, Scraper(client, store=scene.store, collector=scene.collector, pause=1.0, stale_after=10.0)


def merge(scene: Scene, scraper: Scraper, *, ready: int = 1) -> Demand:
    now = clock.monotonic()
    demand = scraper.merge(KEY, scene.collector.sum_demand(KEY, now), ready=ready, now=now)
    assert demand is not None
    return demand


async def test_sees_what_came_past_the_gateways() -> None:
    async with reading() as (scene, scraper), serving() as one, serving() as two:
        await scene.server.put(PODS, replica("a", one))
        await scene.server.put(PODS, replica("b", two))
        await scene.settle()
        one.running, two.waiting = 3, 4

        await scraper.look()
        assert not merge(scene, scraper).complete
        await scraper.look()

        demand = merge(scene, scraper)
        assert (demand.waiting, demand.complete) == (7, True)


async def test_what_gateways_have_at_the_engines_is_theirs() -> None:
    async with reading() as (scene, scraper), serving() as engine:
        await scene.server.put(PODS, replica("a", engine))
        await scene.gateway.change(str(KEY), in_flight=3)
        await scene.settle()
        engine.running = 3

        await scraper.look()
        await scraper.look()

        assert merge(scene, scraper).waiting == 0


async def test_a_silent_engine_keeps_nothing_from_the_others() -> None:
    async with reading() as (scene, scraper), serving() as good, serving() as bad:
        await scene.server.put(PODS, replica("a", good))
        await scene.server.put(PODS, replica("b", bad))
        await scene.settle()
        good.running, bad.status = 2, 500

        await scraper.look()
        await scraper.look()

        demand = merge(scene, scraper, ready=2)
        assert (demand.waiting, demand.complete) == (2, True)


async def test_waits_no_longer_than_it_may_for_an_engine_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "_ANSWER_SECONDS", 0.05)
    async with reading() as (scene, scraper), serving() as engine:
        await scene.server.put(PODS, replica("a", engine))
        await scene.settle()
        engine.is_stuck = True

        await scraper.look()
        await scraper.look()

        demand = merge(scene, scraper)
        assert (demand.waiting, demand.complete) == (0, True)


async def test_asks_only_engines_that_are_ready() -> None:
    async with reading() as (scene, scraper), serving() as engine:
        await scene.server.put(PODS, replica("a", engine, ready=False))
        await scene.settle()

        await scraper.look()

        assert engine.reads == 0


async def test_forgets_what_fell_asleep() -> None:
    async with reading() as (scene, scraper), serving() as engine:
        await scene.server.put(PODS, replica("a", engine))
        await scene.settle()
        engine.running = 1
        await scraper.look()
        await scraper.look()
        await scene.server.remove(PODS, "a")
        await scene.settle()

        await scraper.look()

        assert not merge(scene, scraper).complete
        assert merge(scene, scraper, ready=0).waiting == 0


async def test_asks_no_more_engines_at_a_time_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "ENGINES_AT_ONCE", 2)
    async with reading() as (scene, scraper), serving() as engine:
        for number in range(9):
            await scene.server.put(PODS, replica(f"p{number}", engine))
        await scene.settle()

        await scraper.look()

        assert engine.reads == 9
        assert engine.most_at_once <= 2


async def test_a_model_that_is_busy_past_the_gateways_does_not_fall_asleep() -> None:
    """Nor when the operator has only just begun, and the gateways' last request is long over."""
    async with AsyncExitStack() as stack:
        scene, scraper = await stack.enter_async_context(reading(idleAfter="1s"))
        engine = await stack.enter_async_context(serving())
        autoscaler = Autoscaler(
            scene.autoscaler._kube,
            store=scene.store,
            collector=scene.collector,
            recorder=Recorder(scene.autoscaler._kube, "operator-a"),
            timing=Timing(tick=0.05, stale_after=5.0),
            on_decision=lambda _: None,
            prices=Prices(""),
            scraper=scraper,
        )
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, replica("a", engine, age=60))
        await scene.gateway.change(str(KEY), since_last=60)
        await scene.settle()
        engine.running = 1

        for _ in range(3):
            await autoscaler.scale(KEY)
            await scraper.look()
        await autoscaler.scale(KEY)
        assert scene.scales() == []

        engine.running = 0
        await scraper.look()
        await scraper.look()
        await asyncio.sleep(1.1)
        await scene.gateway.change(str(KEY), since_last=60)
        await scene.settle()
        await autoscaler.scale(KEY)
        assert scene.scaled_to() == [0]
