"""The store follows the API server, also over a gap in its watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from lull.api.llmdeployment import Key, Manifest
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


@asynccontextmanager
async def following() -> AsyncIterator[tuple[FakeApiServer, Store, list[Key]]]:
    async with serve_apiserver() as (server, url), connect_kube(url) as kube:
        store, changed = Store(), list[Key]()
        store.listen(changed.append)
        running = asyncio.ensure_future(store.run(kube, namespace="default", on_alive=lambda _: None))
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
