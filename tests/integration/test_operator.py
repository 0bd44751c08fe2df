"""The operator as it is put together, against a real API server and a gateway that holds what the test says."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from lull.api.llmdeployment import Manifest
from lull.cli import operator
from lull.core.planning import is_scaled
from lull.doors import clock
from lull.doors.http import Http
from lull.doors.kube import (
    DEPLOYMENTS,
    LEASES,
    LLMDEPLOYMENTS,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    SERVICES,
    Kube,
)
from lull.settings import OperatorSettings
from tests.fakes.gateway import FakeGateway, serve_gateway
from tests.fakes.ports import free_port
from tests.integration.conftest import ApiServer
from tests.manifests import manifest

GATEWAY_ADDRESS = "192.0.2.10"
"""From the block that is kept for documentation: Kubernetes takes no loopback address for an endpoint."""
CHILDREN = (DEPLOYMENTS, SERVICES, NETWORK_POLICIES, POD_DISRUPTION_BUDGETS)


class ToLoopback(httpx.AsyncHTTPTransport):
    """Carries what is meant for the gateway's address to this machine."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1")
        return await super().handle_async_request(request)


@dataclass
class Scene:
    apiserver: ApiServer
    kube: Kube
    namespace: str
    gateway: FakeGateway

    def apply(self, name: str, **spec: Any) -> None:
        written = manifest(name=name, namespace=self.namespace, **spec)
        self.apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(written))

    async def workload(self, name: str) -> Manifest | None:
        return await self.kube.get(DEPLOYMENTS, self.namespace, f"{name}-default")

    async def replicas(self, name: str) -> int | None:
        workload = await self.workload(name)
        return None if workload is None else workload["spec"]["replicas"]

    async def condition(self, name: str, kind: str) -> Manifest:
        found = await self.kube.get(LLMDEPLOYMENTS, self.namespace, name)
        conditions = (found or {}).get("status", {}).get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {})

    async def versions(self) -> dict[tuple[str, str], str]:
        return {
            (resource.kind, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
            for resource in (LLMDEPLOYMENTS, *CHILDREN)
            for item in (await self.kube.list(resource, namespace=self.namespace)).items
        }

    async def demand(self, name: str, *, held: int = 0, in_flight: int = 0) -> None:
        await self.gateway.change(f"{self.namespace}/{name}", held=held, in_flight=in_flight)

    async def wake(self, name: str) -> None:
        """Hold a request, and wait for the replica that it asks for."""

        async def awake() -> bool:
            return await self.replicas(name) == 1

        await self.demand(name, held=1)
        await until(awake)


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  the condition is the API server's
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    kube: Kube, namespace: str, *, name: str = "operator-a", prices: str = "", prometheus_url: str = ""
) -> AsyncIterator[asyncio.Event]:
    """An operator of this namespace; the event stops it."""
    settings = OperatorSettings(
        namespace=namespace,
        watch_namespace=namespace,
        pod_name=name,
        admin_port=free_port(),
        tick_seconds=0.5,
        stale_seconds=2,
        engine_tick_seconds=1,
        prices_file=prices,
        prometheus_url=prometheus_url,
    )
    stop = asyncio.Event()
    async with httpx.AsyncClient(transport=ToLoopback(), trust_env=False) as client:
        serving = asyncio.ensure_future(operator.serve(settings, kube, Http(client), stop=stop))
        try:
            yield stop
        finally:
            stop.set()
            await serving


@asynccontextmanager
async def process(namespace: str, *, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An operator in a process of its own, as it runs in a pod."""
    environment = {
        **os.environ,
        "LULL_NAMESPACE": namespace,
        "LULL_WATCH_NAMESPACE": namespace,
        "LULL_POD_NAME": name,
        "LULL_ADMIN_PORT": str(free_port()),
    }
    command = (sys.executable, "-c", "from lull.cli.operator import main; main()")
    started = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


@pytest.fixture
async def scene(
    apiserver: ApiServer, namespace: str, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    # Kopf logs in by itself, as a pod or as the environment says.
    monkeypatch.setitem(os.environ, "KUBECONFIG", str(apiserver.kubeconfig))
    async with serve_gateway() as gateway:
        published = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": "IPv4",
            "metadata": {
                "namespace": namespace,
                "name": "gateways",
                "labels": {"kubernetes.io/service-name": "lull-gateway-admin"},
            },
            "ports": [{"name": "admin", "port": gateway.port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [GATEWAY_ADDRESS], "targetRef": {"kind": "Pod", "name": "gateway-0"}}],
        }
        apiserver.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(published))
        yield Scene(apiserver, kube, namespace, gateway)


async def test_a_new_deployment_sleeps_until_somebody_asks(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m")

        async def asleep() -> bool:
            return (await scene.condition("m", "Ready")).get("reason") == "ScaledToZero"

        await until(asleep)
        assert await scene.replicas("m") == 0

        async def owned() -> bool:
            workload = await scene.workload("m")
            return workload is not None and is_scaled(workload)

        await until(owned)
        began = clock.monotonic()
        await scene.wake("m")
        assert clock.monotonic() - began < 0.3

        async def told() -> bool:
            found = await scene.kube.get(LLMDEPLOYMENTS, scene.namespace, "m")
            decisions = (found or {})["status"]["decisions"]
            return [one["reason"] for one in decisions] == ["Activated"]

        await until(told)


async def test_scales_up_with_what_is_in_flight(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m", scaling={"target": {"inFlight": 2}, "maxReplicas": 6})

        async def created() -> bool:
            return await scene.workload("m") is not None

        await until(created)
        await scene.demand("m", in_flight=9)

        async def five() -> bool:
            return await scene.replicas("m") == 5

        await until(five)
        await scene.demand("m", in_flight=90)

        async def six() -> bool:
            return await scene.replicas("m") == 6

        await until(six)


async def test_a_second_reconcile_writes_nothing(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m")

        async def settled() -> bool:
            return (await scene.condition("m", "Ready")).get("status") == "True"

        await until(settled)
        await asyncio.sleep(1)
        scene.apiserver.kubectl("annotate", "llm", "m", "look=again", "-n", scene.namespace)
        before = await scene.versions()

        await asyncio.sleep(2)

        assert await scene.versions() == before


async def test_a_restarted_operator_writes_nothing(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m")

        async def settled() -> bool:
            before = await scene.versions()
            await asyncio.sleep(2)
            is_ready = (await scene.condition("m", "Ready")).get("status") == "True"
            return is_ready and await scene.versions() == before

        await until(settled, seconds=60)
    before = await scene.versions()

    async with running(scene.kube, scene.namespace, name="operator-b"):
        await asyncio.sleep(3)

        assert await scene.versions() == before


async def test_heals_what_somebody_changed_or_deleted(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m")
        await scene.wake("m")
        scene.apiserver.kubectl("scale", "deployment", "m-default", "--replicas=5", "-n", scene.namespace)
        scene.apiserver.kubectl("delete", "service", "m-engine", "-n", scene.namespace)

        async def healed() -> bool:
            service = await scene.kube.get(SERVICES, scene.namespace, "m-engine")
            return service is not None and await scene.replicas("m") == 1

        await until(healed)


async def test_stands_back_where_the_spec_names_a_number(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m", replicas=2)
        await scene.demand("m", held=500)

        async def manual() -> bool:
            condition = await scene.condition("m", "ScalingActive")
            return condition.get("reason") == "Manual" and await scene.replicas("m") == 2

        await until(manual)


async def test_says_what_is_wrong_with_a_spec_and_recovers(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m", engine={"extraArgs": ["--port", "99"]})

        async def refused() -> bool:
            condition = await scene.condition("m", "SpecValid")
            return condition.get("reason") == "InvalidSpec" and "--port" in condition["message"]

        await until(refused)
        assert await scene.workload("m") is None
        scene.apply("m", engine={"extraArgs": []})

        async def accepted() -> bool:
            return await scene.workload("m") is not None

        await until(accepted)


async def test_takes_over_nothing_that_belongs_to_somebody_else(scene: Scene) -> None:
    stranger = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": scene.namespace, "name": "m-engine"},
        "spec": {"selector": {"app": "other"}, "ports": [{"port": 80}]},
    }
    scene.apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(stranger))
    before = await scene.versions()
    async with running(scene.kube, scene.namespace):
        scene.apply("m")

        async def refused() -> bool:
            condition = await scene.condition("m", "SpecValid")
            return condition.get("reason") == "ChildNameTaken" and 'Service "m-engine"' in condition["message"]

        await until(refused)
        after = await scene.versions()
        del after["LLMDeployment", "m"]
        assert after == before
        scene.apiserver.kubectl("delete", "service", "m-engine", "-n", scene.namespace)
        scene.apiserver.kubectl("annotate", "llm", "m", "look=again", "-n", scene.namespace)

        async def created() -> bool:
            return await scene.workload("m") is not None

        await until(created)


async def test_waits_for_the_children_of_a_deleted_namesake_to_be_collected(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m")

        async def created() -> bool:
            return await scene.workload("m") is not None

        await until(created)
        before = await scene.versions()
        # Nothing collects garbage here, so that its children stay until the test deletes them.
        scene.apiserver.kubectl("delete", "llm", "m", "-n", scene.namespace)
        scene.apply("m")
        await asyncio.sleep(1)
        during = await scene.versions()
        assert await scene.condition("m", "SpecValid") == {}
        children = {identity: version for identity, version in during.items() if identity[0] != "LLMDeployment"}
        assert children.items() <= before.items()
        for kind, name in children:
            scene.apiserver.kubectl("delete", kind, name, "-n", scene.namespace)

        async def asleep() -> bool:
            return (await scene.condition("m", "Ready")).get("reason") == "ScaledToZero"

        await until(asleep)


async def test_heals_a_label_that_was_lost_without_touching_the_count(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m")
        await scene.wake("m")
        generation = ((await scene.workload("m")) or {})["metadata"]["generation"]
        scene.apiserver.kubectl("label", "deployment", "m-default", "lull.dev/deployment-", "-n", scene.namespace)

        async def labelled() -> bool:
            return "lull.dev/deployment" in ((await scene.workload("m")) or {})["metadata"]["labels"]

        await until(labelled)
        assert ((await scene.workload("m")) or {})["metadata"]["generation"] == generation


async def test_knows_its_children_again_when_all_have_lost_their_label(scene: Scene) -> None:
    async def settled() -> bool:
        return (await scene.condition("m", "Ready")).get("status") == "True"

    async def children() -> dict[tuple[str, str], Manifest]:
        return {
            (resource.kind, item["metadata"]["name"]): item["metadata"]
            for resource in CHILDREN
            for item in (await scene.kube.list(resource, namespace=scene.namespace)).items
        }

    async with running(scene.kube, scene.namespace):
        scene.apply("m")
        await until(settled)
    before = await children()
    for kind, name in before:
        scene.apiserver.kubectl("label", kind, name, "lull.dev/deployment-", "-n", scene.namespace)

    async with running(scene.kube, scene.namespace, name="operator-b"):

        async def labelled() -> bool:
            return all("lull.dev/deployment" in child["labels"] for child in (await children()).values())

        await until(labelled)
    after = await children()
    assert {name: child["uid"] for name, child in after.items()} == {
        name: child["uid"] for name, child in before.items()
    }


async def test_tells_the_younger_of_two_that_claim_a_name_and_hands_it_over(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("a")

        async def valid(name: str) -> bool:
            return (await scene.condition(name, "SpecValid")).get("status") == "True"

        await until(lambda: valid("a"))
        scene.apply("b", model={"source": "hf://org/name", "name": "a"})

        async def conflicts() -> bool:
            return (await scene.condition("b", "SpecValid")).get("reason") == "NameConflict"

        await until(conflicts)
        scene.apiserver.kubectl("delete", "llm", "a", "-n", scene.namespace)

        await until(lambda: valid("b"))


async def test_wakes_by_annotation_and_goes_on_counting_after_a_restart(scene: Scene, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("accelerators: {NVIDIA-L4: {perHour: 3600}}")
    product = {"product": "NVIDIA-L4"}

    async def status() -> Manifest:
        found = await scene.kube.get(LLMDEPLOYMENTS, scene.namespace, "m")
        given: Manifest = (found or {}).get("status", {})
        return given

    async def costs(amount: str) -> bool:
        cost: Manifest = (await status()).get("cost", {})
        return bool(cost.get("perHour") == amount)

    async with running(scene.kube, scene.namespace, prices=str(prices)):
        scene.apply("m", accelerator=product)
        await until(lambda: costs("0.00"))
        wake = "2020-01-01T00:00:00Z"
        scene.apiserver.kubectl("annotate", "llm/m", "-n", scene.namespace, f"lull.dev/wake={wake}")
        await until(lambda: costs("3600.00"))
        before = await status()
        assert (before["wake"], before["desiredReplicas"], before["decisions"][0]["reason"]) == (wake, 1, "Woken")

    async with running(scene.kube, scene.namespace, name="operator-b", prices=str(prices)):
        scene.apply("m", accelerator=product, scaling={"minReplicas": 2})
        await until(lambda: costs("7200.00"))
        after = await status()

    assert after["cost"]["since"] == before["cost"]["since"]
    assert float(after["cost"]["thisMonth"]) > float(before["cost"]["thisMonth"])
    # The annotation is still there, and was followed.
    assert [one["toReplicas"] for one in after["decisions"]] == [2, 1]
    assert after["wake"] == wake


async def test_holds_what_is_there_while_no_gateway_answers(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m", scaling={"idleAfter": "1s"})
        await scene.wake("m")
        scene.gateway.status = 500

        async def missing() -> bool:
            return (await scene.condition("m", "ScalingActive")).get("reason") == "MetricsUnavailable"

        await until(missing)
        assert await scene.replicas("m") == 1


async def test_a_standby_process_takes_over_from_one_that_stops(scene: Scene) -> None:
    async def held_by(name: str) -> bool:
        lease = await scene.kube.get(LEASES, scene.namespace, "lull-operator")
        return lease is not None and lease["spec"]["holderIdentity"] == name

    async def created() -> bool:
        return await scene.workload("m") is not None

    async with running(scene.kube, scene.namespace, name="operator-a") as stop_first:
        await until(lambda: held_by("operator-a"))
        async with process(scene.namespace, name="operator-b"):
            await until(lambda: held_by("operator-a"))
            stop_first.set()

            await until(lambda: held_by("operator-b"))

            scene.apply("m")
            await until(created)


async def test_a_process_that_is_told_to_stop_gives_the_lease_up_and_exits_well(scene: Scene) -> None:
    async def held_by(name: str) -> bool:
        lease = await scene.kube.get(LEASES, scene.namespace, "lull-operator")
        return lease is not None and lease["spec"]["holderIdentity"] == name

    async with process(scene.namespace, name="operator-a") as started:
        await until(lambda: held_by("operator-a"))
        await asyncio.sleep(1)
        began = clock.monotonic()

        started.terminate()

        assert await started.wait() == 0
        assert clock.monotonic() - began < 3
        assert await held_by("")


async def test_deleting_leaves_no_finalizer_behind(scene: Scene) -> None:
    async with running(scene.kube, scene.namespace):
        scene.apply("m")

        async def created() -> bool:
            return await scene.workload("m") is not None

        await until(created)
    scene.apiserver.kubectl("delete", "llm", "m", "-n", scene.namespace, "--timeout=5s")

    assert await scene.kube.get(LLMDEPLOYMENTS, scene.namespace, "m") is None
