"""Adapters through the whole operator, against a real API server: from the spec to the engine and back to status."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from lull.doors import serving
from lull.doors.kube import LLMDEPLOYMENTS, Kube
from lull.fetcher.adapters import Wanted
from lull.fetcher.shelf import Shelf
from tests.fakes.ports import free_port
from tests.integration.test_operator import running, until
from tests.manifests import manifest
from tests.unit.fetcher.test_adapters import write
from tests.unit.residence.conftest import Pod

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.integration.conftest import ApiServer

PODS = "10.0.0.9"
"""An address that the API server takes for a pod's; the operator's client carries all to this machine."""


async def bring(source: str, target: Path) -> None:
    write(target, rank=64 if source.endswith("big") else 8)


def put_pod(apiserver: ApiServer, namespace: str, pod: Pod) -> None:
    """What a kubelet would report of a replica that is ready."""
    whole = pod.manifest()
    containers = {
        field: [{**one, "image": "x"} for one in whole["spec"][field]] for field in ("initContainers", "containers")
    }
    created = {**whole, "metadata": {**whole["metadata"], "namespace": namespace}, "spec": containers}
    del created["metadata"]["uid"]
    apiserver.kubectl("apply", "-f", "-", stdin=json.dumps({**created, "status": None}))
    addresses = {"podIP": PODS, "podIPs": [{"ip": PODS}]}
    status = {"conditions": whole["status"]["conditions"], "phase": "Running", **addresses}
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    apiserver.kubectl("-n", namespace, "patch", "pod", pod.name, *patch)


async def test_status_says_what_the_engines_have(
    apiserver: ApiServer, namespace: str, kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "KUBECONFIG", str(apiserver.kubeconfig))
    stop = asyncio.Event()
    shelf = Shelf(tmp_path, bring, Wanted(16))
    pod = Pod("tiny-0", free_port(), shelf, free_port())

    def apply(*names: str) -> None:
        items = [{"name": name, "source": f"hf://lull/{name}"} for name in names]
        written = manifest(name="tiny", namespace=namespace, adapters={"items": items}, replicas=1)
        apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(written))

    async def status() -> dict[str, Any]:
        found = await kube.get(LLMDEPLOYMENTS, namespace, "tiny")
        said: dict[str, Any] = (found or {}).get("status", {})
        return said

    def saying(**states: str) -> Any:
        async def check() -> bool:
            return {one["name"]: one["state"] for one in (await status()).get("adapters", [])} == states

        return check

    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(shelf.run(stop))
        stack.callback(stop.set)
        await stack.enter_async_context(serving.serve(shelf.answer, pod.shelf_port))
        await pod.start()
        stack.push_async_callback(pod.stop)
        await stack.enter_async_context(running(kube, namespace))

        apply("fr", "big")
        await until(saying(fr="Pending", big="Pending"))
        put_pod(apiserver, namespace, pod)
        await until(saying(fr="Ready", big="Failed"))
        said = await status()
        assert {one["name"]: one["readyReplicas"] for one in said["adapters"]} == {"fr": 1, "big": 0}
        assert "rank 64" in {one["name"]: one["message"] for one in said["adapters"]}["big"]
        (ready,) = (one for one in said["conditions"] if one["type"] == "AdaptersReady")
        assert (ready["status"], ready["reason"]) == ("False", "AdapterFailed")

        apply("fr", "de")
        await until(saying(fr="Ready", de="Ready"))
        assert pod.loaded == {"fr", "de"}

        found = await kube.get(LLMDEPLOYMENTS, namespace, "tiny")
        await asyncio.sleep(2)
        later = await kube.get(LLMDEPLOYMENTS, namespace, "tiny")
        assert found is not None
        assert later is not None
        assert found["metadata"]["resourceVersion"] == later["metadata"]["resourceVersion"], (
            "nothing happens: no writes"
        )
