"""The operator's side of sleep between an API server in memory and engine-sim, over real HTTP."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from images.enginesim.options import parse_options
from images.enginesim.server import Server
from lull.api import names
from lull.api.llmdeployment import Key, Manifest
from lull.autoscaler.sleeping import Sleepers
from lull.core.sleeping import Mark, Rest, build_conditions, parse_busy, parse_mark
from lull.doors import clock, http
from lull.doors.events import Recorder, ScaledReason
from lull.doors.kube import Conflict
from lull.doors.store import Store
from tests.fakes.apiserver import FakeApiServer, connect_kube, serve_apiserver
from tests.manifests import UID, manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KEY = Key("default", "m")
LLMDEPLOYMENTS = "/apis/lull.dev/v1alpha1/namespaces/default/llmdeployments"
PODS = "/api/v1/namespaces/default/pods"
LONG_AGO = 3600.0


@dataclass
class Engine:
    """An engine-sim that can be killed and started."""

    server: TestServer | None = None
    driver: asyncio.Task[None] | None = None
    port: int | None = None

    async def start(self) -> None:
        options = parse_options(["serve", "/nowhere", "--served-model-name", "m"], {"VLLM_SERVER_DEV_MODE": "1"})
        sim = Server(options, now=0.0)
        self.driver = asyncio.create_task(sim.drive())
        self.server = TestServer(sim.app(), port=self.port, host="127.0.0.1")
        await self.server.start_server()
        self.port = self.server.port

    async def stop(self) -> None:
        assert self.driver is not None
        assert self.server is not None
        self.driver.cancel()
        await self.server.close()

    def pod(self, mark: Mark | None = None) -> Manifest:
        pod: Manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "default",
                "name": f"m-{self.port}",
                "uid": f"uid-{self.port}",
                "labels": names.engine_labels("m"),
            },
            "spec": {"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": self.port}]}]},
            "status": {
                "phase": "Running",
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }
        if mark is None:
            return pod
        return {**pod, "status": {**pod["status"], "conditions": build_conditions(pod, mark, wall=mark.at)}}


class Stubborn(Engine):
    """An engine that sleeps and refuses to wake up, until it is persuaded."""

    is_persuaded = False

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/is_sleeping", self._answer)
        app.router.add_post("/wake_up", self._refuse)
        self.server = TestServer(app, host="127.0.0.1")
        await self.server.start_server()
        self.port = self.server.port

    async def stop(self) -> None:
        assert self.server is not None
        await self.server.close()

    async def _answer(self, _: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": True})

    async def _refuse(self, _: web.Request) -> web.Response:
        return web.Response() if self.is_persuaded else web.Response(status=500, text="CUDA error")


@dataclass
class Scene:
    api: FakeApiServer
    store: Store
    sleepers: Sleepers
    client: http.Http
    engines: list[Engine]
    recorder: Recorder
    rest: Rest = Rest.STAY
    later: float = 0.0
    """Seconds by which the clock is ahead."""
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    async def wait(self) -> None:
        """Let the watch catch up."""
        async with asyncio.timeout(30):
            while not self._is_settled():  # noqa: ASYNC110  the fakes tell nobody
                await asyncio.sleep(0.01)

    def _is_settled(self) -> bool:
        known = [*self.store.list_pods(KEY), self.store.find_manifest(KEY)]
        there = [*self.api.objects[PODS].values(), *self.api.objects[LLMDEPLOYMENTS].values()]
        return {one["metadata"]["resourceVersion"] for one in known if one} == {
            one["metadata"]["resourceVersion"] for one in there
        }

    async def settle(self, rest: Rest) -> float | None:
        self.rest = rest
        due = await self.sleepers.settle(KEY)
        await self.wait()
        return due

    async def ask(self, engine: Engine, method: str, path: str, **query: str) -> bytes:
        answer = await self.client.ask(method, f"http://127.0.0.1:{engine.port}{path}", query=query, deadline=30)
        return answer.content

    async def refuse(self, times: int) -> None:
        """Tell all engines to wake up so often, a few seconds apart."""
        for _ in range(times):
            self.later += 8.0
            await self.settle(Rest.AWAKE)

    def pods(self) -> set[str]:
        return set(self.api.objects[PODS])

    def recorded(self) -> list[Any]:
        """What there is to say in Events, and was not said yet."""
        news = self.recorder._news
        return [news.get_nowait() for _ in range(news.qsize())]

    async def is_asleep(self, engine: Engine) -> bool:
        return b"true" in await self.ask(engine, "GET", "/is_sleeping")

    def mark(self, engine: Engine) -> Mark | None:
        return parse_mark(self.api.objects[PODS][f"m-{engine.port}"])


@asynccontextmanager
async def sleeping(*marks: Mark | None, make: Callable[[], Engine] = Engine, **sleep: object) -> AsyncIterator[Scene]:
    """An LLMDeployment with an engine for each mark, all awake unless made otherwise."""
    async with AsyncExitStack() as stack:
        api, url = await stack.enter_async_context(serve_apiserver())
        kube = await stack.enter_async_context(connect_kube(url))
        client = await stack.enter_async_context(http.connect())
        engines = [make() for _ in marks]
        for engine, mark in zip(engines, marks, strict=True):
            await engine.start()
            stack.push_async_callback(engine.stop)
            await api.put(PODS, engine.pod(mark))
        written = manifest(name="m", scaling={"sleep": sleep})
        await api.put(LLMDEPLOYMENTS, {**written, "metadata": {**written["metadata"], "uid": UID}})
        store = Store()
        recorder = Recorder(kube, "operator-a")
        sleepers = Sleepers(kube, client, store=store, recorder=recorder, find_rest=lambda _: scene.rest)
        scene = Scene(api, store, sleepers, client, engines, recorder)
        watch = asyncio.ensure_future(store.run(kube, namespace="default", on_alive=lambda _: None))
        patch, monotonic = stack.enter_context(pytest.MonkeyPatch.context()), clock.monotonic
        patch.setattr(clock, "monotonic", lambda: monotonic() + scene.later)
        try:
            await scene.wait()
            yield scene
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


def marked(level: int = 1, *, age: float = LONG_AGO) -> Mark:
    return Mark(level, clock.wall() - age)


async def test_marks_before_it_puts_to_sleep() -> None:
    async with sleeping(None) as scene:
        (engine,) = scene.engines

        due = await scene.settle(Rest.ASLEEP)

        assert scene.mark(engine) is not None
        assert not await scene.is_asleep(engine)
        assert due == 0.5


async def test_puts_to_sleep_what_has_been_marked_for_long_enough() -> None:
    async with sleeping(marked(2), level=2) as scene:
        (engine,) = scene.engines

        due = await scene.settle(Rest.ASLEEP)

        assert await scene.is_asleep(engine)
        assert due == 10.0
        assert b'discard_all"} 1.0' in await scene.ask(engine, "GET", "/metrics")


@pytest.mark.parametrize("level", [1, 2])
async def test_wakes_and_lets_gateways_come_back_in_one_look(level: int) -> None:
    async with sleeping(marked(level)) as scene:
        (engine,) = scene.engines
        await scene.ask(engine, "POST", "/sleep", level=str(level))

        await scene.settle(Rest.AWAKE)

        assert not await scene.is_asleep(engine)
        assert scene.mark(engine) is None


async def test_all_replicas_sleep_and_wake() -> None:
    async with sleeping(marked(), marked()) as scene:
        await scene.settle(Rest.ASLEEP)
        assert [await scene.is_asleep(engine) for engine in scene.engines] == [True, True]

        await scene.settle(Rest.AWAKE)

        assert [await scene.is_asleep(engine) for engine in scene.engines] == [False, False]


async def test_an_engine_that_answers_somebody_is_not_put_to_sleep() -> None:
    async with sleeping(marked()) as scene:
        (engine,) = scene.engines
        body = b'{"model": "m", "prompt": "a", "max_tokens": 1000}'
        url = f"http://127.0.0.1:{engine.port}/v1/completions"
        asking = asyncio.ensure_future(scene.client.ask("POST", url, body=body, deadline=60))
        async with asyncio.timeout(30):
            while not parse_busy(await scene.ask(engine, "GET", "/metrics")):  # noqa: ASYNC110  nobody else tells
                await asyncio.sleep(0.01)

        due = await scene.settle(Rest.ASLEEP)

        assert not await scene.is_asleep(engine)
        assert due == 0.5
        asking.cancel()
        await asyncio.wait([asking])


async def test_an_engine_that_restarted_is_awake_and_used_again() -> None:
    async with sleeping(marked()) as scene:
        (engine,) = scene.engines
        await scene.settle(Rest.ASLEEP)
        await engine.stop()
        assert await scene.settle(Rest.STAY) == 2.0
        await engine.start()

        await scene.settle(Rest.STAY)

        assert scene.mark(engine) is None


async def test_an_engine_that_somebody_put_to_sleep_is_marked_and_woken() -> None:
    async with sleeping(None) as scene:
        (engine,) = scene.engines
        await scene.ask(engine, "POST", "/sleep", level="2")

        await scene.settle(Rest.AWAKE)

        assert not await scene.is_asleep(engine)
        assert scene.mark(engine) is None


async def test_the_pod_of_an_engine_that_refuses_to_wake_up_is_replaced() -> None:
    async with sleeping(marked(), make=Stubborn) as scene:
        await scene.refuse(4)
        assert len(scene.pods()) == 1
        assert {one.reason for one in scene.recorded()} == {ScaledReason.WAKE_FAILED}

        await scene.refuse(1)

        assert scene.pods() == set()
        replaced = scene.recorded()[-1]
        assert (replaced.reason, replaced.warning) == (ScaledReason.REPLACED, True)
        assert "did not wake up in 5 tries and is replaced: POST /wake_up is answered 500" in replaced.message


async def test_engines_that_refuse_together_are_replaced_one_after_the_other() -> None:
    async with sleeping(marked(), marked(), marked(), make=Stubborn) as scene:
        await scene.refuse(5)
        assert len(scene.pods()) == 2
        await scene.refuse(7)
        assert len(scene.pods()) == 2

        await scene.refuse(1)

        assert len(scene.pods()) == 1


async def test_refusals_before_a_wake_up_that_went_well_do_not_count() -> None:
    async with sleeping(marked(), make=Stubborn) as scene:
        (engine,) = scene.engines
        assert isinstance(engine, Stubborn)
        await scene.refuse(4)
        engine.is_persuaded = True
        await scene.refuse(1)
        engine.is_persuaded = False

        await scene.refuse(4)

        assert len(scene.pods()) == 1


async def test_without_the_field_what_sleeps_is_woken_and_then_left_alone() -> None:
    async with sleeping(marked()) as scene:
        (engine,) = scene.engines
        await scene.ask(engine, "POST", "/sleep")
        written = scene.api.objects[LLMDEPLOYMENTS]["m"]
        await scene.api.put(LLMDEPLOYMENTS, {**written, "spec": {**written["spec"], "scaling": {}}})
        await scene.wait()
        assert scene.sleepers.concerns(KEY)

        await scene.settle(Rest.AWAKE)

        assert not await scene.is_asleep(engine)
        assert not scene.sleepers.concerns(KEY)


async def test_a_pod_that_changed_meanwhile_is_looked_at_again() -> None:
    async with sleeping(None) as scene:
        (engine,) = scene.engines
        pod = scene.api.objects[PODS][f"m-{engine.port}"]
        version = {**pod["metadata"], "resourceVersion": "99999"}
        scene.api.objects[PODS][f"m-{engine.port}"] = {**pod, "metadata": version}

        scene.rest = Rest.ASLEEP

        with pytest.raises(Conflict):
            await scene.sleepers.settle(KEY)
