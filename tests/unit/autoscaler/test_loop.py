"""The autoscaler between a store and a collector that a test fills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lull.api.llmdeployment import Key, Manifest
from lull.api.reasons import Reason, ScalingReason
from lull.autoscaler.collecting import Collector, Timing
from lull.autoscaler.loop import Autoscaler
from lull.core.keeping import find_basis
from lull.core.sleeping import Rest
from lull.doors import clock, http, metrics
from lull.doors.events import Recorder, ScaledReason
from lull.doors.prices import Prices
from lull.doors.store import Store
from tests.fakes.apiserver import FakeApiServer, connect_kube, serve_apiserver
from tests.fakes.gateway import FakeGateway, serve_gateway
from tests.manifests import UID, manifest, stored

KEY = Key("default", "m")
LABELS = {"app.kubernetes.io/component": "engine", "lull.dev/deployment": "m", "lull.dev/pool": "default"}
LLMDEPLOYMENTS = "/apis/lull.dev/v1alpha1/namespaces/default/llmdeployments"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"
SETS = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
SCALE = ("PATCH", f"{DEPLOYMENTS}/m-default/scale")
PRICES = 'accelerators: {"*": {perHour: 2, source: a list, at: 2026-07-20}}'
TWO_POOLS = {
    "onDemandBase": 1,
    "pools": [{"name": "spot", "capacityType": "Spot", "maxReplicas": 2}, {"name": "demand", "maxReplicas": 3}],
}


@dataclass
class Scene:
    server: FakeApiServer
    gateway: FakeGateway
    store: Store
    collector: Collector
    autoscaler: Autoscaler
    recorder: Recorder
    told: list[Key] = field(default_factory=list)
    rested: list[Key] = field(default_factory=list)

    def recorded(self) -> list[Any]:
        """What there is to say in Events, and was not said yet."""
        news = self.recorder._news
        return [news.get_nowait() for _ in range(news.qsize())]

    def scaled_to(self) -> list[int]:
        """Replica counts in the order in which they were written."""
        return [
            entry["spec"]["replicas"]
            for collection, entries in self.server.objects.items()
            for entry in entries.values()
            if collection == f"{DEPLOYMENTS}/m-default"
        ]

    def written(self) -> list[tuple[str, int]]:
        """Workloads and the replica counts that were written to them last, in the order of their names."""
        return sorted(
            (collection.rpartition("/")[2], entry["spec"]["replicas"])
            for collection, entries in self.server.objects.items()
            for entry in entries.values()
            if entry.get("kind") == "Scale"
        )

    def scales(self) -> list[str]:
        """Workloads whose counts were written, in order, once for each time."""
        return [path.split("/")[-2] for _, path in self.server.writes if path.endswith("/scale")]

    async def settle(self) -> None:
        """Let watches and polls catch up."""
        async with asyncio.timeout(30):
            while not self._is_settled():  # noqa: ASYNC110  the fakes tell nobody
                await asyncio.sleep(0.01)

    def _is_settled(self) -> bool:
        """Whether the store has what the API server has, and the collector what the gateway said last."""
        deployment = self.store.find_deployment(KEY)
        workloads = self.store.list_workloads(deployment) if deployment else ()
        known = [self.store.find_manifest(KEY), *self.store.list_pods(KEY), *workloads]
        # Children of what is gone are nobody's to list.
        collections = (LLMDEPLOYMENTS, PODS, DEPLOYMENTS, SETS) if deployment else (LLMDEPLOYMENTS, PODS)
        present = [one for name in collections for one in self.server.objects.get(name, {}).values()]
        samples = [sample and sample.sequence for sample in self.collector._samples.values()]
        return versions(known) == versions(present) and samples == [self.gateway.sequence]


def versions(manifests: Iterable[Manifest | None]) -> set[str]:
    return {manifest["metadata"]["resourceVersion"] for manifest in manifests if manifest}


def labels(pool: str) -> dict[str, str]:
    return {**LABELS, "lull.dev/pool": pool}


def workload(replicas: int, *, owned: bool = True, pool: str = "default", uid: str | None = None) -> Manifest:
    entry = {"manager": "lull-autoscaler", "subresource": "scale"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "namespace": "default",
            "name": f"m-{pool}",
            "uid": uid or pool,
            "labels": labels(pool),
            "ownerReferences": [{"controller": True, "uid": UID}],
            "managedFields": [entry] if owned else [],
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels(pool)}},
    }


def group(replicas: int) -> Manifest:
    like = workload(replicas)
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {**like["metadata"], "managedFields": [{"manager": "lull-autoscaler"}]},
        "spec": {"replicas": replicas},
    }


def pod(
    name: str,
    *,
    phase: str = "Running",
    ready: bool = True,
    age: float = 0.0,
    pool: str = "default",
    component: str = "engine",
) -> Manifest:
    since = clock.render_time(clock.wall() - age)
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": since}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "default",
            "name": name,
            "creationTimestamp": since,
            "labels": {**labels(pool), "app.kubernetes.io/component": component},
        },
        "status": {"phase": phase, "conditions": [condition]},
    }


@asynccontextmanager
async def scaling(*, beside: dict[str, Any] | None = None, **spec: object) -> AsyncIterator[Scene]:
    """A scene whose LLMDeployment has these fields of `scaling`, and these fields beside it."""
    async with AsyncExitStack() as stack:
        server, url = await stack.enter_async_context(serve_apiserver())
        kube = await stack.enter_async_context(connect_kube(url))
        client = await stack.enter_async_context(http.connect())
        prices = Path(stack.enter_context(TemporaryDirectory())) / "prices.yaml"
        prices.write_text(PRICES)
        gateway = await stack.enter_async_context(serve_gateway())
        timing = Timing(tick=0.05, stale_after=1.0)
        store, collector = Store(), Collector(client, timing=timing, on_news=lambda _: None)
        told: list[Key] = []
        rested: list[Key] = []
        recorder = Recorder(kube, "operator-a")
        autoscaler = Autoscaler(
            kube,
            store=store,
            collector=collector,
            recorder=recorder,
            timing=timing,
            on_decision=told.append,
            on_rest=rested.append,
            prices=Prices(str(prices)),
        )
        written = manifest(name="m", scaling=spec, **(beside or {}))
        await server.put(LLMDEPLOYMENTS, {**written, "metadata": {**written["metadata"], "uid": UID}})
        published = {
            "metadata": {"namespace": "default", "name": "g"},
            "ports": [{"name": "admin", "port": gateway.port}],
            "endpoints": [{"addresses": ["127.0.0.1"], "targetRef": {"name": "gateway-0"}}],
        }
        await server.put(SLICES, published)
        # Discovery: without it the store takes LeaderWorkerSet for a kind that the cluster lacks.
        discovery = {"metadata": {"name": "v1"}, "resources": [{"name": "leaderworkersets"}]}
        await server.put("/apis/leaderworkerset.x-k8s.io", discovery)
        tasks = [
            asyncio.ensure_future(coroutine)
            for coroutine in (
                store.run(kube, namespace="default", on_alive=lambda _: None),
                collector.run(),
                collector.discover(kube, namespace="default", service="g", on_alive=lambda _: None),
            )
        ]
        try:
            yield Scene(server, gateway, store, collector, autoscaler, recorder, told, rested)
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


async def test_looks_less_often_at_what_sleeps() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(0))
        await scene.settle()
        assert await scene.autoscaler.scale(KEY) == pytest.approx(0.5)

        await scene.gateway.change(str(KEY), held=1)
        await scene.settle()

        assert await scene.autoscaler.scale(KEY) == 0.05


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


async def test_idle_replicas_are_to_sleep_and_those_that_sleep_are_to_wake_before_others_are_asked_for() -> None:
    async with scaling(minReplicas=1, sleep={"after": "10s"}, target={"inFlight": 1, "queueLength": 1}) as scene:
        asleep = {"type": "lull.dev/Asleep", "status": "True", "reason": "Level1"}
        resting = pod("a", age=600)
        resting["status"]["conditions"].append(asleep)
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, resting)
        await scene.gateway.change(str(KEY), since_last=60)
        await scene.settle()
        await scene.autoscaler.scale(KEY)
        assert (scene.autoscaler.find_rest(KEY), scene.rested) == (Rest.ASLEEP, [KEY])

        await scene.gateway.change(str(KEY), held=2, since_last=0)
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        assert (scene.autoscaler.find_rest(KEY), scene.rested) == (Rest.AWAKE, [KEY, KEY])
        assert SCALE not in scene.server.writes

        await scene.gateway.change(str(KEY), held=5, since_last=0)
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        assert scene.scaled_to() == [3]
        (decision,) = scene.autoscaler.view(stored(manifest(name="m"))).decisions
        assert decision.message.endswith("0 ready, 3 loading")


@pytest.mark.parametrize(("beside", "rest"), [({}, Rest.AWAKE), ({"replicas": 1}, Rest.STAY)])
async def test_an_annotation_wakes_what_sleeps_though_no_gateway_is_heard(beside: dict[str, Any], rest: Rest) -> None:
    async with scaling(minReplicas=1, sleep={"after": "10s"}, beside=beside) as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.remove(SLICES, "g")
        await scene.server.put(PODS, pod("a", age=600))
        async with asyncio.timeout(30):
            while scene.collector.sum_demand(KEY, clock.monotonic()) is not None:  # noqa: ASYNC110  the fakes tell nobody
                await asyncio.sleep(0.01)
        await scene.autoscaler.scale(KEY)
        assert scene.autoscaler.find_rest(KEY) is Rest.STAY

        present = scene.server.objects[LLMDEPLOYMENTS]["m"]
        metadata = {**present["metadata"], "annotations": {"lull.dev/wake": "2026-11-21T14:02:11Z"}}
        woken = await scene.server.put(LLMDEPLOYMENTS, {**present, "metadata": metadata})
        async with asyncio.timeout(30):
            while scene.store.find_manifest(KEY) != woken:  # noqa: ASYNC110  likewise
                await asyncio.sleep(0.01)
        await scene.autoscaler.scale(KEY)

        assert scene.autoscaler.find_rest(KEY) is rest


async def test_shadow_records_what_it_would_do_and_writes_nothing_else() -> None:
    async with scaling(mode="Shadow", target={"inFlight": 1}) as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, pod("a"))
        await scene.gateway.change(str(KEY), in_flight=3)
        await scene.settle()

        await scene.autoscaler.scale(KEY)
        await scene.autoscaler.scale(KEY)

        assert SCALE not in scene.server.writes
        view = scene.autoscaler.view(stored(manifest(name="m")))
        (record,) = view.decisions
        assert (view.desired_replicas, view.reason) == (1, Reason.SHADOW)
        assert (record.from_replicas, record.to_replicas, record.reason) == (1, 3, ScalingReason.SHADOW)


async def test_runs_as_many_as_the_budget_pays_for() -> None:
    async with scaling(target={"inFlight": 1}, budget={"perHour": "5"}) as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, pod("a"))
        await scene.gateway.change(str(KEY), in_flight=9)
        await scene.settle()

        await scene.autoscaler.scale(KEY)

        assert scene.scaled_to() == [2]
        (record,) = scene.autoscaler.view(stored(manifest(name="m"))).decisions
        assert record.reason is ScalingReason.AT_BUDGET


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


async def test_a_replica_that_never_becomes_ready_keeps_the_others_only_for_so_long() -> None:
    async with scaling(idleAfter="1s") as scene:
        await scene.server.put(DEPLOYMENTS, workload(2))
        await scene.server.put(PODS, pod("serving", age=9000))
        await scene.server.put(PODS, pod("crashing", age=7000, ready=False))
        await scene.gateway.change(str(KEY), since_last=60)
        await scene.settle()
        await scene.autoscaler.scale(KEY)
        assert scene.scaled_to() == []
        assert scene.recorded() == []

        await scene.server.put(PODS, pod("crashing", age=7300, ready=False))
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        assert scene.scaled_to() == [0]
        words = "1 replica has not become ready within 2h: scaling down does not wait for that."
        view = scene.autoscaler.view(stored(manifest(name="m")))
        assert view.message.endswith(words)
        assert view.decisions[0].message == ("2 → 0: no request for 1s; 1 ready, 0 loading, 1 not ready for 2h")
        scaled, stuck = scene.recorded()
        assert scaled.reason is ScaledReason.SCALED_TO_ZERO
        assert (stuck.reason, stuck.warning) == (ScaledReason.STUCK, True)
        assert stuck.message == f"{words} WorkloadsReady says what is wrong."


async def test_takes_over_the_workload_of_every_pool() -> None:
    async with scaling(beside={"placement": TWO_POOLS}) as scene:
        await scene.server.put(DEPLOYMENTS, workload(0, owned=False, pool="spot"))
        await scene.server.put(DEPLOYMENTS, workload(0, owned=False, pool="demand"))
        await scene.settle()

        for _ in range(3):
            await scene.autoscaler.scale(KEY)

        assert scene.written() == [("m-demand", 0), ("m-spot", 0)]
        assert len(scene.scales()) == 2


async def test_splits_one_decision_over_pools_and_writes_only_what_differs() -> None:
    async with scaling(beside={"placement": TWO_POOLS}, target={"inFlight": 1, "queueLength": 1}) as scene:
        await scene.server.put(DEPLOYMENTS, workload(0, pool="spot"))
        await scene.server.put(DEPLOYMENTS, workload(0, pool="demand"))
        await scene.gateway.change(str(KEY), held=1)
        await scene.settle()
        await scene.autoscaler.scale(KEY)
        assert scene.written() == [("m-demand", 1)]

        await scene.gateway.change(str(KEY), held=0, in_flight=3)
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        assert scene.written() == [("m-demand", 1), ("m-spot", 2)]
        assert scene.scales() == ["m-demand", "m-spot"]
        view = scene.autoscaler.view(stored(manifest(name="m")))
        assert [(one.from_replicas, one.to_replicas) for one in view.decisions] == [(1, 3), (0, 1)]
        assert view.decisions[0].message.endswith("; 2 in spot, 1 in demand")


async def test_goes_no_higher_than_the_pools_have_room_and_says_so() -> None:
    async with scaling(beside={"placement": TWO_POOLS}, target={"inFlight": 1}) as scene:
        await scene.server.put(DEPLOYMENTS, workload(0, pool="spot"))
        await scene.server.put(DEPLOYMENTS, workload(0, pool="demand"))
        await scene.gateway.change(str(KEY), in_flight=50)
        await scene.settle()

        await scene.autoscaler.scale(KEY)

        assert scene.written() == [("m-demand", 3), ("m-spot", 2)]
        view = scene.autoscaler.view(stored(manifest(name="m")))
        assert (view.desired_replicas, view.message) == (
            5,
            "Lull keeps between 0 and 8 replicas. The pools hold 5 at most.",
        )


async def test_a_pool_whose_workload_is_not_there_yet_does_not_hold_up_the_others() -> None:
    async with scaling(beside={"placement": TWO_POOLS}, minReplicas=2) as scene:
        await scene.server.put(DEPLOYMENTS, workload(0, pool="demand"))
        await scene.settle()
        await scene.autoscaler.scale(KEY)
        assert scene.written() == [("m-demand", 1)]

        await scene.server.put(DEPLOYMENTS, workload(0, owned=False, pool="spot"))
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        assert scene.written() == [("m-demand", 1), ("m-spot", 1)]


async def test_what_ran_in_a_pool_that_is_taken_off_runs_elsewhere() -> None:
    only = {"pools": [{"name": "demand"}]}
    async with scaling(beside={"placement": TWO_POOLS}, minReplicas=3) as scene:
        await scene.server.put(DEPLOYMENTS, workload(2, pool="spot"))
        await scene.server.put(DEPLOYMENTS, workload(1, pool="demand"))
        await scene.settle()
        await scene.autoscaler.scale(KEY)
        assert scene.scales() == []

        present = scene.server.objects[LLMDEPLOYMENTS]["m"]
        await scene.server.put(
            LLMDEPLOYMENTS, {**present, "spec": {**present["spec"], "placement": only, "scaling": {"minReplicas": 1}}}
        )
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        # As many as before: where they run is no reason to have fewer.
        assert scene.written() == [("m-demand", 3)]
        assert scene.scales() == ["m-demand"]


async def test_a_replica_that_loads_in_one_pool_is_not_made_up_for_by_one_too_many_in_another() -> None:
    async with scaling(beside={"placement": TWO_POOLS}, idleAfter="1s") as scene:
        await scene.server.put(DEPLOYMENTS, workload(1, pool="spot"))
        await scene.server.put(DEPLOYMENTS, workload(1, pool="demand"))
        await scene.server.put(PODS, pod("a", pool="spot", age=60))
        await scene.server.put(PODS, pod("b", pool="spot", age=60))
        await scene.gateway.change(str(KEY), since_last=60)
        await scene.settle()

        await scene.autoscaler.scale(KEY)

        assert scene.scales() == []


async def test_scales_groups_and_counts_them_by_their_leaders() -> None:
    beside = {
        "accelerator": {"nodesPerReplica": 2},
        "parallelism": {"tensor": 2},
    }
    async with scaling(beside=beside, idleAfter="1s") as scene:
        await scene.server.put(SETS, group(1))
        await scene.server.put(PODS, pod("leader", age=60))
        await scene.server.put(PODS, pod("worker", ready=False, component="engine-worker"))
        await scene.gateway.change(str(KEY), since_last=60)
        await scene.settle()

        await scene.autoscaler.scale(KEY)

        # On the object: a custom resource's /scale takes no apply.
        assert scene.server.writes == [("PATCH", f"{SETS}/m-default")]
        assert scene.server.objects[SETS]["m-default"]["spec"] == {"replicas": 0}


async def test_splits_what_a_person_set() -> None:
    async with scaling(beside={"placement": TWO_POOLS, "replicas": 9}) as scene:
        await scene.server.put(DEPLOYMENTS, workload(0, pool="spot"))
        await scene.server.put(DEPLOYMENTS, workload(0, pool="demand"))
        await scene.settle()

        await scene.autoscaler.scale(KEY)

        assert scene.written() == [("m-demand", 3), ("m-spot", 2)]
        view = scene.autoscaler.view(stored(manifest(name="m")))
        assert view.reason is Reason.MANUAL
        assert view.message == (
            "spec.replicas is 9: Lull does not scale until it is removed. The pools hold 5 at most."
        )


async def test_a_schedule_wakes_the_model_and_says_so() -> None:
    always = {"cron": "* * * * *", "duration": "2m", "minReplicas": 2}
    async with scaling(schedules=[always]) as scene:
        await scene.server.put(DEPLOYMENTS, workload(0))
        await scene.settle()

        await scene.autoscaler.scale(KEY)

        assert scene.scaled_to() == [2]
        view = scene.autoscaler.view(stored(manifest(name="m")))
        assert view.decisions[0].reason is ScalingReason.SCHEDULED
        assert view.message == 'Lull keeps between 0 and 8 replicas. The schedule "* * * * *" (UTC) keeps 2 now.'


async def test_says_what_behavior_forbids() -> None:
    disabled = {"scaleUp": {"selectPolicy": "Disabled"}, "scaleDown": {"selectPolicy": "Disabled"}}
    async with scaling(behavior=disabled) as scene:
        await scene.server.put(DEPLOYMENTS, workload(0))
        await scene.gateway.change(str(KEY), held=1)
        await scene.settle()

        await scene.autoscaler.scale(KEY)

        assert scene.scales() == []
        assert scene.autoscaler.view(stored(manifest(name="m"))).message == (
            "Lull keeps between 0 and 8 replicas. "
            "None is added while behavior.scaleUp is Disabled, not even to wake the model. "
            "None is removed while behavior.scaleDown is Disabled."
        )


async def test_writes_again_where_the_decision_turns_before_the_watch_has_shown_it() -> None:
    async with scaling(beside={"replicas": 3}) as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        present = scene.server.objects[LLMDEPLOYMENTS]["m"]
        await scene.server.put(LLMDEPLOYMENTS, {**present, "spec": {**present["spec"], "replicas": 1}})
        await scene.settle()
        await scene.autoscaler.scale(KEY)
        await scene.autoscaler.scale(KEY)

        # The watch still shows 1, which is what is wanted and not what was written last.
        assert scene.scaled_to() == [1]
        assert len(scene.scales()) == 2


async def test_forgets_what_is_deleted() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(0))
        await scene.settle()
        await scene.autoscaler.scale(KEY)
        await scene.server.remove(LLMDEPLOYMENTS, "m")
        await scene.settle()

        assert await scene.autoscaler.scale(KEY) is None
        assert scene.autoscaler.view(stored(manifest(name="m"))).desired_replicas is None


async def say(scene: Scene, **status: Any) -> None:
    """Write status, as the reconciler would."""
    present = scene.server.objects[LLMDEPLOYMENTS]["m"]
    await scene.server.put(LLMDEPLOYMENTS, {**present, "status": {**present.get("status", {}), **status}})
    await scene.settle()


async def annotate(scene: Scene, value: str) -> None:
    present = scene.server.objects[LLMDEPLOYMENTS]["m"]
    metadata = {**present["metadata"], "annotations": {"lull.dev/wake": value}}
    await scene.server.put(LLMDEPLOYMENTS, {**present, "metadata": metadata})
    await scene.settle()


async def test_an_annotation_wakes_once() -> None:
    async with scaling(idleAfter="1s") as scene:
        await scene.server.put(DEPLOYMENTS, workload(0))
        await scene.gateway.change("default/other")
        await annotate(scene, "2020-01-01T00:00:00Z")

        await scene.autoscaler.scale(KEY)

        assert scene.scaled_to() == [1]
        view = scene.autoscaler.view(stored(manifest(name="m")))
        assert view.decisions[0].reason is ScalingReason.WOKEN
        assert view.kept.wake == "2020-01-01T00:00:00Z"


async def test_an_annotation_that_was_followed_before_a_restart_wakes_nothing() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(0))
        await scene.gateway.change("default/other")
        await annotate(scene, "2026-11-21T12:00:00Z")
        await say(scene, wake="2026-11-21T12:00:00Z")

        await scene.autoscaler.scale(KEY)

        assert scene.scales() == []


async def test_says_what_is_wrong_with_an_annotation() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(0))
        await scene.gateway.change("default/other")
        await annotate(scene, "please")

        await scene.autoscaler.scale(KEY)

        assert scene.scales() == []
        assert "lull.dev/wake is no time" in scene.autoscaler.view(stored(manifest(name="m"))).message


def cost(**fields: str) -> Manifest:
    hour_ago = clock.render_time(clock.wall() - 3600)
    month = hour_ago[:7]
    known = {"currency": "USD", "perHour": "2.00", "perReplica": "2.00", "price": "", "month": month}
    return {**known, "thisMonth": "40.00", "since": hour_ago, "at": hour_ago, **fields}


async def test_takes_up_what_was_spent_and_charges_for_the_gap() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(2))
        await scene.server.put(PODS, pod("old", age=7200))
        await scene.server.put(PODS, pod("new", age=1800))
        await scene.gateway.change(str(KEY), in_flight=1)
        begun = clock.wall()
        await say(scene, cost=cost(at=clock.render_time(begun - 3600)))

        await scene.autoscaler.scale(KEY)

        said = scene.autoscaler.view(stored(manifest(name="m"))).kept.cost
        assert said is not None
        in_month = begun - max(begun - 3600, month_begin(begun))
        before = 40.0 if in_month == 3600 else 0.0
        assert float(said.this_month) == pytest.approx(before + 2 * (in_month + min(1800, in_month)) / 3600, abs=0.05)
        assert said.price == "1 x accelerator at 2 (a list of 2026-07-20)"


def month_begin(wall: float) -> float:
    return datetime.fromtimestamp(wall, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()


async def test_counts_costs_without_a_budget_and_tells_only_when_there_is_news() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, pod("a"))
        await scene.gateway.change(str(KEY), in_flight=1)
        await scene.settle()

        for _ in range(5):
            await scene.autoscaler.scale(KEY)

        said = scene.autoscaler.view(stored(manifest(name="m"))).kept.cost
        assert said is not None
        assert (said.per_hour, said.currency) == ("2.00", "USD")
        assert scene.told == [KEY]


async def test_a_restart_says_of_costs_what_status_says() -> None:
    async with scaling() as scene:
        given = stored(manifest(name="m"), status={"cost": cost(thisMonth="7.00")})

        said = scene.autoscaler.view(given).kept.cost

        assert said is not None
        assert said.this_month == "7.00"


async def test_says_at_what_price_the_budget_is_kept_and_that_it_is_reached() -> None:
    async with scaling(target={"inFlight": 1}, budget={"perHour": "5"}) as scene:
        await scene.server.put(DEPLOYMENTS, workload(2))
        await scene.server.put(PODS, pod("a"))
        await scene.server.put(PODS, pod("b"))
        await scene.gateway.change(str(KEY), in_flight=9)
        await scene.settle()

        await scene.autoscaler.scale(KEY)
        await scene.autoscaler.scale(KEY)

        assert scene.scales() == []
        assert scene.autoscaler.view(stored(manifest(name="m"))).message == (
            "Lull keeps between 0 and 8 replicas. The budget is kept at 2 USD an hour for a replica, 1 x accelerator at 2 "
            "(a list of 2026-07-20). It pays for 2 at most."
        )
        assert [(one.reason, one.message) for one in scene.recorded()] == [
            (ScaledReason.AT_BUDGET, "More replicas are wanted than scaling.budget pays for: 2.")
        ]


LEARNT = {"at": "2026-11-21T12:00:00Z", "capacity": "2.5", "margin": "0.40", "peak": "9", "evidence": "5m"}


async def test_takes_up_what_was_learnt_of_the_same_pods() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, pod("a"))
        await scene.gateway.change(str(KEY), in_flight=1)
        await scene.settle()
        deployment = scene.store.find_deployment(KEY)
        assert deployment is not None
        await say(scene, learnt={**LEARNT, "basis": find_basis(deployment)})

        await scene.autoscaler.scale(KEY)

        said = scene.autoscaler.view(stored(manifest(name="m"))).kept.learnt
        assert said is not None
        assert (said.capacity, said.at) == ("2.5", "2026-11-21T12:00:00Z")


async def test_forgets_what_was_learnt_of_other_pods() -> None:
    async with scaling() as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, pod("a"))
        await scene.gateway.change(str(KEY), in_flight=1)
        await say(scene, learnt={**LEARNT, "basis": "another"})

        await scene.autoscaler.scale(KEY)

        assert scene.autoscaler.view(stored(manifest(name="m"))).kept.learnt is None


async def test_every_figure_of_a_decision_is_a_series_until_it_is_deleted() -> None:
    async with scaling(minReplicas=1, budget={"perHour": "5"}) as scene:
        await scene.server.put(DEPLOYMENTS, workload(1))
        await scene.server.put(PODS, pod("a"))
        await scene.gateway.change(str(KEY), held=1, in_flight=3)
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        found = series()
        assert found['lull_demand_requests{name="m",namespace="default",state="in_flight"}'] == 3
        assert found['lull_scaling_replicas{name="m",namespace="default",of="budget"}'] == 2
        assert found['lull_scaling_replicas{name="m",namespace="default",of="least"}'] == 1
        assert found['lull_scaling_reason{name="m",namespace="default",reason="WithinTarget"}'] == 1
        assert found['lull_cost_per_hour{name="m",namespace="default"}'] == 2

        await scene.server.remove(LLMDEPLOYMENTS, "m")
        await scene.settle()
        await scene.autoscaler.scale(KEY)

        assert series() == {}


def series() -> dict[str, float]:
    """Values of the LLMDeployment's series."""
    lines = (line.rpartition(" ") for line in metrics.render().decode().splitlines() if 'name="m"' in line)
    return {name: float(value) for name, _, value in lines}
