"""The store follows the API server, also over a gap in its watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lull.api.llmdeployment import Key, Manifest
from lull.doors import store as store_module
from lull.doors.store import Store
from tests.fakes.apiserver import FakeApiServer, connect_kube, serve_apiserver
from tests.manifests import UID, manifest, stored

LLMDEPLOYMENTS = "/apis/lull.dev/v1alpha1/namespaces/default/llmdeployments"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
KEY = Key("default", "m")


def written(name: str = "m", **spec: Any) -> Manifest:
    whole = manifest(name=name, **spec)
    return {**whole, "metadata": {**whole["metadata"], "uid": UID}}


def child(name: str, *, owner: str = UID) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "namespace": "default",
            "name": name,
            "labels": {"lull.dev/deployment": "m"},
            "ownerReferences": [{"controller": True, "uid": owner}],
        },
    }


def workload(name: str = "ours", *, version: int, replicas: int = 0) -> Manifest:
    whole = child(name)
    return {
        **whole,
        "metadata": {**whole["metadata"], "resourceVersion": str(version)},
        "spec": {"replicas": replicas},
    }


def group(name: str) -> Manifest:
    return {**child(name), "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"}


def node(name: str, **status: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"zone": "a"}, "annotations": {"volumes": "many"}},
        "spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "spot", "effect": "NoSchedule"}]},
        "status": {"images": [{"names": ["a"]}], **status},
    }


async def serve_kind(server: FakeApiServer, api: str, *plurals: str) -> None:
    """Let the API server's discovery name kinds."""
    root, _, version = api.rpartition("/")
    await server.put(root, {"metadata": {"name": version}, "resources": [{"name": plural} for plural in plurals]})


@asynccontextmanager
async def following(namespace: str | None = "default") -> AsyncIterator[tuple[FakeApiServer, Store, list[Key]]]:
    async with serve_apiserver() as (server, url), connect_kube(url) as kube:
        await serve_kind(server, "/api/v1", "nodes")
        store, changed = Store(), list[Key]()
        store.listen(changed.append)
        running = asyncio.ensure_future(store.run(kube, namespace=namespace, on_alive=lambda _: None))
        try:
            async with asyncio.timeout(5):
                await store.wait_synced()
            yield server, store, changed
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  the condition is the fake API server's
            await asyncio.sleep(0.005)


async def test_knows_what_was_created_and_forgets_what_was_deleted() -> None:
    async with following() as (server, store, changed):
        await server.put(LLMDEPLOYMENTS, written())
        await until(lambda: store.find_deployment(KEY) is not None)

        await server.remove(LLMDEPLOYMENTS, "m")

        await until(lambda: store.find_deployment(KEY) is None)
        assert changed == [KEY, KEY]


async def test_a_child_counts_only_for_the_very_object_that_owns_it() -> None:
    async with following() as (server, store, changed):
        await server.put(DEPLOYMENTS, child("ours"))
        await server.put(DEPLOYMENTS, child("namesake", owner="another"))
        await until(lambda: len(changed) == 2)

        workloads = store.list_workloads(stored(written()))

        assert [workload["metadata"]["name"] for workload in workloads] == ["ours"]


async def test_an_object_that_cannot_be_read_is_not_decided_for() -> None:
    async with following() as (server, store, changed):
        await server.put(LLMDEPLOYMENTS, written())
        await server.put(LLMDEPLOYMENTS, written(model={"source": "ftp://nowhere"}))
        await until(lambda: len(changed) == 2)

        assert store.find_deployment(KEY) is None


async def test_knows_what_we_wrote_before_the_watch_shows_it() -> None:
    async with following() as (server, store, changed):
        written_at = server.version + 1
        store.learn(workload(version=written_at))

        assert len(store.list_workloads(stored(written()))) == 1
        assert changed == [KEY]

        await server.put(DEPLOYMENTS, workload(version=written_at))
        await server.put(LLMDEPLOYMENTS, written())
        await until(lambda: store.find_deployment(KEY) is not None)
        assert changed == [KEY, KEY]


async def test_an_event_from_before_our_write_undoes_nothing() -> None:
    async with following() as (server, store, _):
        await server.put(DEPLOYMENTS, workload(version=0))
        store.learn(workload(version=server.version + 2, replicas=3))

        def replicas() -> list[int]:
            return [one["spec"]["replicas"] for one in store.list_workloads(stored(written()))]

        await server.put(DEPLOYMENTS, workload(version=0, replicas=1))
        await server.put(LLMDEPLOYMENTS, written())
        await until(lambda: store.find_deployment(KEY) is not None)
        assert replicas() == [3]

        await server.put(DEPLOYMENTS, workload(version=0, replicas=4))
        await until(lambda: replicas() == [4])


async def test_an_answer_that_comes_after_the_watch_has_shown_more_is_passed_over() -> None:
    async with following() as (server, store, _):
        await server.put(DEPLOYMENTS, workload(version=0, replicas=5))
        await until(lambda: bool(store.list_workloads(stored(written()))))

        store.learn(workload(version=server.version - 1, replicas=1))

        assert [one["spec"]["replicas"] for one in store.list_workloads(stored(written()))] == [5]


async def test_nobody_is_told_where_only_the_version_moved() -> None:
    async with following() as (server, store, changed):
        await server.put(DEPLOYMENTS, workload(version=0))
        await server.put(DEPLOYMENTS, workload(version=0))
        await server.put(DEPLOYMENTS, workload(version=0, replicas=1))

        await until(lambda: [one["spec"]["replicas"] for one in store.list_workloads(stored(written()))] == [1])
        assert changed == [KEY, KEY]


async def test_a_child_whose_label_names_another_is_told_to_both() -> None:
    async with following() as (server, store, changed):
        await server.put(DEPLOYMENTS, child("ours"))
        moved = child("ours")
        moved["metadata"]["labels"] = {"lull.dev/deployment": "other"}
        await server.put(DEPLOYMENTS, moved)

        await until(lambda: len(changed) == 3)
        assert sorted(changed[1:]) == [KEY, Key("default", "other")]
        assert store.list_workloads(stored(written())) == ()


async def test_does_without_kinds_that_are_not_there() -> None:
    async with following() as (_, store, _):
        assert store.serves("Deployment")
        assert not store.serves("LeaderWorkerSet")
        assert not store.serves("PodMonitor")
        assert not store.serves("Node")


async def test_takes_up_a_kind_that_comes_later_and_drops_one_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_LOOK_AGAIN_SECONDS", 0.01)
    async with following() as (server, store, changed):
        await server.put(LLMDEPLOYMENTS, written())
        groups = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets"
        await server.put(groups, group("g"))
        await serve_kind(server, "/apis/leaderworkerset.x-k8s.io/v1", "leaderworkersets")

        await until(lambda: bool(store.list_workloads(stored(written()))))
        assert store.serves("LeaderWorkerSet")
        assert KEY in changed

        server.refused[groups] = 404
        await server.cut()
        await until(lambda: not store.serves("LeaderWorkerSet"))
        assert store.list_workloads(stored(written())) == ()


async def test_knows_the_nodes_of_a_whole_cluster_less_their_bulk() -> None:
    async with following(namespace=None) as (server, store, _):
        conditions = [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
        ]
        await server.put("/api/v1/nodes", node("n", capacity={"cpu": "2"}, allocatable={}, conditions=conditions))

        await until(lambda: bool(store.list_nodes()))
        (known,) = store.list_nodes()
        assert store.serves("Node")
        assert known["metadata"].keys() == {"name", "labels", "resourceVersion"}
        assert known["spec"] == {"taints": [{"key": "spot", "effect": "NoSchedule"}]}
        assert known["status"] == {
            "capacity": {"cpu": "2"},
            "allocatable": {},
            "conditions": [{"type": "Ready", "status": "True"}],
        }


async def test_does_without_nodes_that_it_may_not_list() -> None:
    async with serve_apiserver() as (server, url), connect_kube(url) as kube:
        await serve_kind(server, "/api/v1", "nodes")
        server.refused["/api/v1/nodes"] = 403
        store = Store()
        running = asyncio.ensure_future(store.run(kube, namespace=None, on_alive=lambda _: None))
        async with asyncio.timeout(5):
            await store.wait_synced()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

        assert not store.serves("Node")
        assert store.list_nodes() == ()


async def test_forgets_what_it_wrote_where_a_later_list_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_EXPECT_SECONDS", 0.0)
    monkeypatch.setattr(store_module, "_RELIST_SECONDS", 0.0)
    async with following() as (server, store, changed):
        store.learn(workload(version=server.version))
        assert len(store.list_workloads(stored(written()))) == 1
        await until(lambda: server.watches == 6)

        await server.cut()

        await until(lambda: not store.list_workloads(stored(written())))
        assert changed == [KEY, KEY]
