"""The autoscaler between a store and a collector that a test fills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from lull.api.llmdeployment import Key, Manifest
from lull.api.reasons import Reason
from lull.autoscaler.collecting import Collector, Timing
from lull.autoscaler.loop import Autoscaler
from lull.doors import clock, http
from lull.doors.events import Recorder
from lull.doors.store import Store
from tests.fakes.apiserver import FakeApiServer, connect_kube, serve_apiserver
from tests.fakes.gateway import FakeGateway, serve_gateway
from tests.manifests import UID, manifest, stored

KEY = Key("default", "m")
LABELS = {"app.kubernetes.io/component": "engine", "lull.dev/deployment": "m", "lull.dev/pool": "default"}
LLMDEPLOYMENTS = "/apis/lull.dev/v1alpha1/namespaces/default/llmdeployments"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
SCALE = ("PATCH", f"{DEPLOYMENTS}/m-default/scale")


@dataclass
class Scene:
    server: FakeApiServer
    gateway: FakeGateway
    store: Store
    collector: Collector
    autoscaler: Autoscaler
    told: list[Key] = field(default_factory=list)

    def scaled_to(self) -> list[int]:
        """Replica counts in the order in which they were written."""
        return [
            entry["spec"]["replicas"]
            for collection, entries in self.server.objects.items()
            for entry in entries.values()
            if collection == f"{DEPLOYMENTS}/m-default"
        ]

    async def settle(self) -> None:
        """Let watches and polls catch up."""
        await asyncio.sleep(0.15)


def workload(replicas: int, *, owned: bool = True) -> Manifest:
    entry = {"manager": "lull-autoscaler", "subresource": "scale"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "namespace": "default",
            "name": "m-default",
            "uid": "workload",
            "labels": LABELS,
            "ownerReferences": [{"controller": True, "uid": UID}],
            "managedFields": [entry] if owned else [],
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": LABELS}},
    }


def pod(name: str, *, phase: str = "Running", ready: bool = True, age: float = 0.0) -> Manifest:
    since = clock.render_time(clock.wall() - age)
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": since}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "labels": LABELS},
        "status": {"phase": phase, "conditions": [condition]},
    }


@asynccontextmanager
async def scaling(**spec: object) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        server, url = await stack.enter_async_context(serve_apiserver())
        kube = await stack.enter_async_context(connect_kube(url))
        client = await stack.enter_async_context(http.connect())
        gateway = await stack.enter_async_context(serve_gateway())
        timing = Timing(tick=0.05, stale_after=1.0)
        store, collector = Store(), Collector(client, timing=timing, on_news=lambda _: None)
        told: list[Key] = []
        autoscaler = Autoscaler(
            kube,
            store=store,
            collector=collector,
            recorder=Recorder(kube, "operator-a"),
            timing=timing,
            on_decision=told.append,
        )
        written = manifest(name="m", scaling=spec)
        await server.put(LLMDEPLOYMENTS, {**written, "metadata": {**written["metadata"], "uid": UID}})
        published = {
            "metadata": {"namespace": "default", "name": "g"},
            "ports": [{"name": "admin", "port": gateway.port}],
            "endpoints": [{"addresses": ["127.0.0.1"], "targetRef": {"name": "gateway-0"}}],
        }
        await server.put(SLICES, published)
        tasks = [
            asyncio.ensure_future(coroutine)
            for coroutine in (
                store.run(kube, namespace="default", on_alive=lambda _: None),
                collector.run(),
                collector.discover(kube, namespace="default", service="g", on_alive=lambda _: None),
            )
        ]
        try:
            yield Scene(server, gateway, store, collector, autoscaler, told)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_waits_for_the_workload_to_be_created() -> None:
    async with scaling() as scene:
        await scene.gateway.change(str(KEY), held=1)
        await scene.settle()

        assert await scene.autoscaler.scale(KEY) == 0.05
        assert SCALE not in scene.server.writes


async def test_takes_the_count_over_at_first_sight_and_then_writes_nothing() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(0, owned=False))
        await scene.settle()

        for _ in range(3):
            await scene.autoscaler.scale(KEY)

        assert scene.server.writes.count(SCALE) == 1
        assert scene.scaled_to() == [0]
        assert scene.told == [KEY]


async def test_does_not_write_again_what_the_watch_does_not_show_yet() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(0))
        await scene.gateway.change(str(KEY), held=1)
        await scene.settle()

        await scene.autoscaler.scale(KEY)
        await scene.autoscaler.scale(KEY)

        assert scene.server.writes.count(SCALE) == 1
        assert scene.scaled_to() == [1]
        view = scene.autoscaler.view(stored(manifest(name="m")))
        assert (view.desired_replicas, view.reason, len(view.decisions)) == (1, Reason.SCALING, 1)


async def test_sets_right_what_somebody_else_wrote() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, pod("a"))
        await scene.gateway.change(str(KEY), in_flight=1)
        await scene.settle()
        await scene.autoscaler.scale(KEY)
        assert SCALE not in scene.server.writes

        await scene.server.put(DEPLOYMENTS, workload(5))
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        assert scene.scaled_to() == [1]


async def test_a_pod_that_has_ended_does_not_count_as_loading() -> None:
    async with scaling(idleAfter="1s") as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, pod("evicted", phase="Failed", ready=False))
        await scene.server.put(PODS, pod("serving", age=60))
        await scene.gateway.change(str(KEY), since_last=60)
        await scene.settle()

        await scene.autoscaler.scale(KEY)

        assert scene.scaled_to() == [0]


async def test_forgets_what_is_deleted() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(0))
        await scene.settle()
        await scene.autoscaler.scale(KEY)
        await scene.server.remove(LLMDEPLOYMENTS, "m")
        await scene.settle()

        assert await scene.autoscaler.scale(KEY) is None
        assert scene.autoscaler.view(stored(manifest(name="m"))).desired_replicas is None
