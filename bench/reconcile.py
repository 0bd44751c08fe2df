"""The operator with a thousand LLMDeployments, and with five thousand: how long, how many requests, how much memory.

A bare kube-apiserver and etcd, the operator in a process of its own, and a gateway that nobody asks anything of, all
on this machine. No controllers and no pods: what is measured is the way from an LLMDeployment to its children and
its status, then a minute in which nothing happens, then a restart.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench.claims import Claim
from e2e.progress import say
from lull.api import names
from lull.doors.kube import (
    DEPLOYMENTS,
    LLMDEPLOYMENTS,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    SERVICES,
    Kube,
    WatchEvent,
    connect,
    reflect,
)
from tests.fakes.gateway import FakeGateway, serve_gateway
from tests.integration.conftest import ROOT, ApiServer, start_apiserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lull.api.llmdeployment import Manifest

NAMESPACE: Final = "bench"
SYSTEM: Final = "bench-system"
CHILDREN: Final = (DEPLOYMENTS, SERVICES, NETWORK_POLICIES, POD_DISRUPTION_BUDGETS)
NODES: Final = 3
CREATORS: Final = 16
"""Requests at a time of whoever creates the LLMDeployments."""
SECONDS_EACH: Final = 0.03
"""What one LLMDeployment may take: 30 s for a thousand, 150 s for five thousand."""
READS: Final = frozenset({"GET", "LIST", "WATCH", "CONNECT"})

Requests = Counter[tuple[str, str]]
"""Requests that the API server answered, by verb and resource."""


def measure() -> list[Claim]:
    """A thousand."""
    return asyncio.run(measure_size(1000))


def measure_full() -> list[Claim]:
    """A thousand, then five thousand on another API server."""
    return [*measure(), *asyncio.run(measure_size(5000))]


async def measure_size(size: int) -> list[Claim]:
    """So many LLMDeployments from nothing, a quiet minute, and a restart."""
    with tempfile.TemporaryDirectory() as folder, start_apiserver(Path(folder)) as apiserver:
        _install(apiserver)
        _add_nodes(apiserver)
        for namespace in (NAMESPACE, SYSTEM):
            apiserver.kubectl("create", "namespace", namespace)
        async with connect(str(apiserver.kubeconfig)) as kube, serve_gateway("0.0.0.0") as gateway:
            _publish(apiserver, gateway)
            scene = Scene(apiserver, kube, size, Path(folder), _write_kubeconfig(apiserver, Path(folder)))
            async with scene.following(), scene.operating() as operator:
                claims = [*await _create(scene, operator), *await _rest(scene, operator)]
                operator.stop()
                await operator.wait()
                return [*claims, *await _restart(scene)]


@dataclass
class Operator:
    """The process, and what the kernel counts of it."""

    process: asyncio.subprocess.Process
    port: int

    def stop(self) -> None:
        """Tell it to end, as a rollout does."""
        self.process.send_signal(signal.SIGTERM)

    async def wait(self) -> None:
        """Wait for its end."""
        await self.process.wait()

    def read_memory(self, line: str) -> float:
        """Megabytes of memory that are resident (VmRSS), or were at most (VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kilobytes = next(one.split()[1] for one in status.splitlines() if one.startswith(f"{line}:"))
        return int(kilobytes) / 1000

    def read_seconds(self) -> float:
        """Seconds of CPU that it has used."""
        return _read_seconds(Path(f"/proc/{self.process.pid}"))


@dataclass
class Scene:
    """An API server, an operator, and what a watch tells of LLMDeployments."""

    apiserver: ApiServer
    kube: Kube
    size: int
    folder: Path
    kubeconfig: Path
    """The operator's own."""
    observed: set[str] = field(default_factory=set)
    """Names of LLMDeployments whose status is about their present spec and says that they are ready."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Know the statuses while the block runs."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(reflect(self.kube, LLMDEPLOYMENTS, self._take_status, trim=_trim))
            yield
            task.cancel()

    async def until_observed(self) -> None:
        """Wait until every status says what it should."""
        async with asyncio.timeout(60 + 10 * SECONDS_EACH * self.size):
            while len(self.observed) < self.size:
                self.changed.clear()
                await self.changed.wait()

    @asynccontextmanager
    async def operating(self) -> AsyncIterator[Operator]:
        """`lull operator`, as it runs in a pod; killed at the end where it still runs."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "LULL_NAMESPACE": SYSTEM,
            "LULL_POD_NAME": "operator-0",
            "LULL_ADMIN_PORT": str(port),
            "LULL_GATEWAY_SERVICE": "gateways",
        }
        with (self.folder / "operator.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("lull")), "operator", env=environment, stdout=log, stderr=log
            )
        try:
            yield Operator(process, port)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def count_requests(self) -> Requests:
        """What the API server has answered about the kinds that Lull deals with."""
        text = await asyncio.to_thread(self.apiserver.kubectl, "get", "--raw", "/metrics")
        kinds = {resource.plural for resource in (LLMDEPLOYMENTS, *CHILDREN)} | {"events", "pods"}
        requests = Requests()
        for family in text_string_to_metric_families(text):
            if family.name != "apiserver_request":
                continue
            for sample in family.samples:
                if sample.name == "apiserver_request_total" and sample.labels["resource"] in kinds:
                    resource = "/".join(filter(None, (sample.labels["resource"], sample.labels["subresource"])))
                    requests[sample.labels["verb"], resource] += int(sample.value)
        return requests

    async def list_versions(self) -> dict[tuple[str, str], str]:
        """Resource versions of everything that there is."""
        return {
            (resource.kind, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
            for resource in (LLMDEPLOYMENTS, *CHILDREN)
            for item in (await self.kube.list(resource, namespace=NAMESPACE, trim=_trim)).items
        }

    def _take_status(self, event: WatchEvent) -> None:
        status = event.object.get("status") or {}
        conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
        is_current = status.get("observedGeneration") == event.object["metadata"]["generation"]
        name = event.object["metadata"]["name"]
        if (
            event.type != "DELETED"
            and is_current
            and conditions.get("Ready") == "True"
            and conditions.get("ScalingActive") == "True"
        ):
            self.observed.add(name)
        else:
            self.observed.discard(name)
        self.changed.set()


async def _create(scene: Scene, operator: Operator) -> list[Claim]:
    """From the first request of whoever creates them to the last status."""
    await _until_leading(operator)
    base = operator.read_memory("VmRSS")
    before, seconds, everywhere = await scene.count_requests(), operator.read_seconds(), _read_all_seconds()
    began = time.monotonic()
    await _create_all(scene)
    created = time.monotonic()
    await scene.until_observed()
    took = time.monotonic() - began
    spent, everywhere = operator.read_seconds() - seconds, _read_all_seconds() - everywhere
    requests = await scene.count_requests() - before
    kinds = Counter(kind for kind, _ in await scene.list_versions())
    assert all(kinds[child.kind] == scene.size for child in CHILDREN), kinds
    del requests["POST", LLMDEPLOYMENTS.plural]
    _show(requests, scene.size)
    say(f"  {scene.size} created after {created - began:.1f} s, the last status after {took:.1f} s")
    subject = f"{scene.size:,} LLMDeployments"
    return [
        Claim(f"{subject}: from nothing to the last status", took, SECONDS_EACH * scene.size, "s", 1),
        Claim(f"{subject}: requests of the operator for each", sum(requests.values()) / scene.size, None, "", 1),
        Claim(f"{subject}: of these, writes", _count_writes(requests) / scene.size, None, "", 1),
        Claim(f"{subject}: CPU of the operator for each", spent * 1000 / scene.size, None, "ms", 1),
        Claim(
            f"{subject}: CPU of API server, etcd and client besides",
            (everywhere - spent) * 1000 / scene.size,
            None,
            "ms",
            1,
        ),
        Claim(f"{subject}: memory of the operator before", base, None, "MB", 1),
    ]


async def _rest(scene: Scene, operator: Operator) -> list[Claim]:
    """A minute in which nobody changes anything."""
    await asyncio.sleep(15)
    before, seconds = await scene.count_requests(), operator.read_seconds()
    await asyncio.sleep(60)
    spent = operator.read_seconds() - seconds
    requests = await scene.count_requests() - before
    _show(requests, scene.size)
    subject = f"{scene.size:,} LLMDeployments"
    limit = 300 if scene.size <= 1000 else None
    return [
        Claim(f"{subject}: memory of the operator at most", operator.read_memory("VmHWM"), limit, "MB", 1),
        Claim(f"{subject}: writes in a quiet minute", _count_writes(requests), 0, "", 1),
        Claim(f"{subject}: CPU of the operator in that minute", spent / 60 * 100, None, "%", 1),
    ]


async def _restart(scene: Scene) -> list[Claim]:
    """Start the operator where all exist already; one of them was changed while it was away."""
    versions = await scene.list_versions()
    changed = _name(scene.size - 1)
    patch = json.dumps({"spec": {"replicas": 2}})
    await asyncio.to_thread(
        scene.apiserver.kubectl, *("-n", NAMESPACE, "patch", "llm", changed, "--type=merge", f"--patch={patch}")
    )
    began = time.monotonic()
    async with scene.operating() as operator:
        await _until_scaled(scene.kube, f"{changed}-default", 2)
        decided = time.monotonic() - began
        await _until_idle(operator)
        settled = time.monotonic() - began
        after = await scene.list_versions()
    moved = {name for (_, name), version in after.items() if versions[_, name] != version}
    subject = f"{scene.size:,} LLMDeployments"
    return [
        Claim(f"{subject}: from the start of the operator to a decision", decided, 5, "s", 1),
        Claim(f"{subject}: until it has looked at all", settled, None, "s", 1),
        Claim(
            f"{subject}: other objects that the restart changed", len(moved - {changed, f"{changed}-default"}), 0, "", 1
        ),
    ]


async def _until_scaled(kube: Kube, name: str, replicas: int) -> None:
    async with asyncio.timeout(120):
        while (await kube.get(DEPLOYMENTS, NAMESPACE, name) or {})["spec"]["replicas"] != replicas:
            await asyncio.sleep(0.1)


def _read_all_seconds() -> float:
    """CPU of this process and of all that it started."""
    own = os.getpid()
    processes = [
        path for path in Path("/proc").iterdir() if path.name.isdecimal() and own in {int(path.name), _parent(path)}
    ]
    return sum(map(_read_seconds, processes))


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _read_seconds(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _create_all(scene: Scene) -> None:
    waiting = iter(range(scene.size))

    async def work() -> None:
        for number in waiting:
            await scene.kube.create(_deployment(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(CREATORS):
            group.create_task(work())


async def _until_leading(operator: Operator) -> None:
    while (await _read_metrics(operator)).get("lull_leading") != 1:
        await asyncio.sleep(0.2)
    await asyncio.sleep(2)


async def _until_idle(operator: Operator) -> None:
    """Wait until no key waits for the controller, three times in a row."""
    idle = 0
    while idle < 3:
        await asyncio.sleep(0.5)
        depth = (await _read_metrics(operator)).get('lull_workqueue_depth{queue="controller"}')
        idle = idle + 1 if depth == 0 else 0


async def _read_metrics(operator: Operator) -> dict[str, float]:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            answer = await client.get(f"http://127.0.0.1:{operator.port}/metrics")
        except httpx.TransportError:
            return {}
    lines = (line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, _, value in lines}


def _install(apiserver: ApiServer) -> None:
    apiserver.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "llmdeployments.lull.dev.yaml"))
    # The schema reaches discovery a moment after it was taken.
    deadline = time.monotonic() + 60
    while "KIND:" not in apiserver.kubectl("explain", "llmdeployment", check=False):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _add_nodes(apiserver: ApiServer) -> None:
    """Let there be nodes that the pods would fit on, so that nothing is to be warned of."""
    sizes = {"cpu": "64", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": "8"}
    for number in range(NODES):
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"node-{number}"},
            "status": {"capacity": sizes, "allocatable": sizes, "conditions": [{"type": "Ready", "status": "True"}]},
        }
        apiserver.kubectl("create", "-f", "-", stdin=json.dumps(node))


def _write_kubeconfig(apiserver: ApiServer, folder: Path) -> Path:
    """Let the operator come with a service account's token, as it does in a pod."""
    apiserver.kubectl("-n", SYSTEM, "create", "serviceaccount", "lull-operator")
    apiserver.kubectl(
        *("create", "clusterrolebinding", "lull-operator", "--clusterrole=cluster-admin"),
        f"--serviceaccount={SYSTEM}:lull-operator",
    )
    token = apiserver.kubectl("-n", SYSTEM, "create", "token", "lull-operator", "--duration=2h").strip()
    config = yaml.safe_load(apiserver.kubeconfig.read_text())
    path = folder / "operator.kubeconfig"
    path.write_text(yaml.safe_dump({**config, "users": [{"name": "admin", "user": {"token": token}}]}))
    return path


def _publish(apiserver: ApiServer, gateway: FakeGateway) -> None:
    """Let the operator find the gateway, as it finds those of a cluster."""
    # Kubernetes takes no loopback address for an endpoint.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        address = probe.getsockname()[0]
    published = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {
            "namespace": SYSTEM,
            "name": "gateways",
            "labels": {"kubernetes.io/service-name": "gateways"},
        },
        "ports": [{"name": "admin", "port": gateway.port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": "gateway-0"}}],
    }
    apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(published))


def _name(number: int) -> str:
    return f"model-{number:05}"


def _deployment(number: int) -> Manifest:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"namespace": NAMESPACE, "name": _name(number)},
        "spec": {"model": {"source": "hf://meta-llama/Llama-3.1-8B-Instruct"}},
    }


def _trim(manifest: Manifest) -> Manifest:
    """What this benchmark looks at."""
    kept = {
        field: manifest["metadata"][field]
        for field in ("name", "namespace", "resourceVersion", "generation")
        if field in manifest["metadata"]
    }
    return {
        "kind": manifest["kind"],
        "metadata": kept,
        "spec": {"replicas": manifest["spec"].get("replicas", 0)},
        "status": manifest.get("status"),
    }


def _count_writes(requests: Requests) -> int:
    return sum(count for (verb, _), count in requests.items() if verb not in READS)


def _show(requests: Requests, size: int) -> None:
    for (verb, resource), count in sorted(requests.items()):
        say(f"  {verb:6} {resource:24} {count:7}  {count / size:.2f} for each")
