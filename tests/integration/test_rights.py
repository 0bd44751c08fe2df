"""The chart grants what is used and nothing else: read in the API server's audit log, while operator and gateway work.

Both run with tokens of the chart's own service accounts, on the roles that Helm installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from e2e.cluster.extras import crds
from e2e.cluster.tools import find_clients
from lull.api import names
from lull.cli import operator
from lull.core.replicas import is_asleep
from lull.doors.http import Http
from lull.doors.kube import connect
from lull.gateway import server
from lull.gateway.sources import Cluster
from lull.settings import GatewaySettings, OperatorSettings
from tests.fakes.ports import free_port
from tests.integration.conftest import ROOT, ApiServer, start_apiserver, wait_until
from tests.manifests import manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from lull.api.llmdeployment import Manifest

CHART = ROOT / "charts" / "lull"
COMPONENTS = ("operator", "gateway")
GATEWAY_ADDRESS = "192.0.2.10"
"""From the block that is kept for documentation: Kubernetes takes no loopback address for an endpoint."""
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}

Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""

# Granted, and not used by what happens below, each with the reason. A right that is used after all must leave the list.
UNUSED: dict[Right, str] = {}


class ToLoopback(httpx.AsyncHTTPTransport):
    """Carries what is meant for the gateway's address to this machine."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1")
        return await super().handle_async_request(request)


@dataclass(frozen=True)
class Audited:
    """An API server that writes down who asked it for what."""

    server: ApiServer
    log: Path

    def entries(self, account: str) -> list[dict[str, Any]]:
        """Every request of a service account, `namespace:name`."""
        user = f"system:serviceaccount:{account}"
        entries = (json.loads(line) for line in self.log.read_text().splitlines())
        return [entry for entry in entries if entry["user"]["username"] == user]


@dataclass(frozen=True)
class Release:
    """The chart, installed by Helm."""

    audited: Audited
    folder: Path
    scope: str

    @property
    def home(self) -> str:
        return f"lull-{self.scope}"

    @property
    def served(self) -> str:
        return f"models-{self.scope}"

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        return self.audited.server.kubectl(*arguments, stdin=stdin, check=check)

    def apply(self, *manifests: Manifest) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def find(self, kind: str, name: str, namespace: str) -> Manifest | None:
        answer = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        return json.loads(answer) if answer.strip() else None

    def install(self) -> None:
        for namespace in (self.home, self.served):
            self.kubectl("create", "namespace", namespace)
        values = [f"rbac.scope={self.scope}", "crds.install=false", "operator.leaseSeconds=3"]
        if self.scope == "namespaced":
            values.append(f"rbac.watchNamespace={self.served}")
        self.helm("install", "lull", str(CHART), *(part for value in values for part in ("--set", value)))

    def helm(self, *arguments: str) -> None:
        folder = os.environ.get("LULL_TEST_BINARIES")
        helm = Path(folder) / "helm" if folder else find_clients()["helm"]
        subprocess.run(
            [str(helm), f"--kubeconfig={self.audited.server.kubeconfig}", f"--namespace={self.home}", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            check=True,
            timeout=60,
        )

    def log_in(self, component: str) -> Path:
        """A kubeconfig with a token of the component's service account."""
        token = self.kubectl("-n", self.home, "create", "token", f"lull-{component}").strip()
        config = yaml.safe_load(self.audited.server.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        path = self.folder / f"{component}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    def environment(self, component: str) -> dict[str, str]:
        """What the chart tells the component, as settings."""
        deployment = self.find("deployment", f"lull-{component}", self.home)
        assert deployment is not None
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        told = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        return {name.removeprefix("LULL_").lower(): value for name, value in told.items()} | {"namespace": self.home}

    def granted(self, component: str) -> set[Right]:
        """Everything that any role bound to the component's account allows."""
        granted: set[Right] = set()
        for kind in ("role", "clusterrole"):
            bindings = json.loads(self.kubectl("get", f"{kind}binding", "-A", "-o", "json"))["items"]
            for binding in bindings:
                subject = {"kind": "ServiceAccount", "name": f"lull-{component}", "namespace": self.home}
                if subject in binding.get("subjects", ()):
                    namespace = ("-n", binding["metadata"]["namespace"]) if kind == "role" else ()
                    role = json.loads(self.kubectl("get", kind, binding["roleRef"]["name"], *namespace, "-o", "json"))
                    granted |= {
                        (group, resource, verb)
                        for rule in role["rules"]
                        for group in rule["apiGroups"]
                        for resource in rule["resources"]
                        for verb in rule["verbs"]
                    }
        return granted

    def requests(self, component: str) -> list[dict[str, Any]]:
        return self.audited.entries(f"{self.home}:lull-{component}")

    def used(self, component: str) -> set[Right]:
        """What the component was allowed to do, and did."""
        return {right for entry in self.requests(component) for right in _rights(entry)}


def _rights(entry: dict[str, Any]) -> Iterator[Right]:
    target = entry.get("objectRef", {})
    if "resource" not in target:
        return
    resource = "/".join(part for part in (target["resource"], target.get("subresource")) if part)
    yield target.get("apiGroup", ""), resource, entry["verb"]
    if entry["verb"] == "patch" and entry.get("responseStatus", {}).get("code") == 201:
        # An apply of an object that was not there: the API server asks for this right besides, and writes one line.
        yield target.get("apiGroup", ""), resource, "create"


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    folder = tmp_path_factory.mktemp("audited")
    policy, log = folder / "policy.yaml", folder / "audit.log"
    policy.write_text(yaml.safe_dump(POLICY))
    flags = (f"--audit-policy-file={policy}", f"--audit-log-path={log}", "--audit-log-mode=blocking-strict")
    with start_apiserver(folder, *flags) as started:
        for path in (ROOT / "crds" / "llmdeployments.lull.dev.yaml", crds("lws"), crds("podmonitor")):
            started.kubectl("apply", "--server-side", "-f", str(path))
            plural = yaml.safe_load(path.read_text())["spec"]["names"]["plural"]
            wait_until(partial(serves, started, plural), folder)
        yield Audited(started, log)


@pytest.fixture(params=["cluster", "namespaced"])
def release(audited: Audited, tmp_path: Path, request: pytest.FixtureRequest) -> Release:
    installed = Release(audited, tmp_path, request.param)
    installed.install()
    return installed


async def test_every_right_is_used_and_none_is_missing(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    # A Lease that somebody deleted is made anew, which takes a right of its own.
    release.kubectl("delete", "lease", "lull-operator", "-n", release.home)
    async with running(release, monkeypatch) as gateway_url:
        await drive(release, gateway_url)

    for component in COMPONENTS:
        requests = release.requests(component)
        forbidden = [entry["requestURI"] for entry in requests if entry["responseStatus"]["code"] == 403]
        granted, used = release.granted(component), release.used(component)
        assert forbidden == []
        assert sorted(granted - used) == sorted(UNUSED.keys() & granted)
        assert used <= granted
    if release.scope == "namespaced":
        targets = [
            entry["objectRef"]
            for component in COMPONENTS
            for entry in release.requests(component)
            if "objectRef" in entry
        ]
        assert {target.get("namespace") for target in targets if "resource" in target} == {release.home, release.served}


async def drive(release: Release, gateway_url: str) -> None:
    """Everything that operator and gateway do: children made, changed, scaled, mended and removed; status; events."""
    namespace = release.served
    cache = {"type": "PersistentVolumeClaim", "size": "1Gi"}
    on_one_node = {"model": {"source": "hf://org/name", "cache": cache}}
    on_two_nodes = {**on_one_node, "accelerator": {"nodesPerReplica": 2}, "parallelism": {"pipeline": 2}}
    # Names that somebody else has: each is looked up, and nothing of a stranger's is touched.
    release.apply(*(stranger(f"{name}-engine", namespace) for name in ("taken-single", "taken-group")))
    release.apply(
        manifest(name="single", namespace=namespace, **on_one_node),
        manifest(name="group", namespace=namespace, **on_two_nodes, scaling={"minReplicas": 1}),
        manifest(name="taken-single", namespace=namespace, **on_one_node),
        manifest(name="taken-group", namespace=namespace, **on_two_nodes),
    )
    await until(lambda: reason(release, "taken-single") == reason(release, "taken-group") == "ChildNameTaken")
    await until(lambda: reason(release, "single") == "ScaledToZero")
    await until(lambda: replicas(release, "leaderworkerset", "group-default") == 1)
    # A request that is held wakes it: through the gateway, the operator's polls, and /scale.
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        body = {"model": "single", "messages": [{"role": "user", "content": "Good morning"}]}
        held = asyncio.ensure_future(client.post(f"{gateway_url}/v1/chat/completions", json=body))
        await until(lambda: replicas(release, "deployment", "single-default") == 1)
        held.cancel()
        await asyncio.wait([held])
    await sleep(release)
    found = release.find("llmdeployment", "single", namespace)
    assert found is not None
    # What an older version of Lull may have left behind is ours to remove.
    orphans = [orphan(kind, found) for kind in ORPHANS]
    release.apply(*orphans)
    release.kubectl("annotate", "llm", "single", "look=again", "-n", namespace)
    for one in orphans:
        kind, name = f"{one['kind']}.{one['apiVersion'].rpartition('/')[0]}".rstrip("."), one["metadata"]["name"]
        await until(partial(is_gone, release, kind, name))
    release.kubectl("delete", "llm", "--all", "-n", namespace)
    # The Lease is renewed meanwhile, too.
    await asyncio.sleep(2)


async def sleep(release: Release) -> None:
    """An engine that nobody asks is marked, in the place of kubelets and gateways that are not there; then replaced."""
    asleep: list[bool] = []
    async with TestServer(build_engine(asleep)) as engine:
        release.apply(
            manifest(name="idle", namespace=release.served, scaling={"minReplicas": 1, "sleep": {"after": "5s"}})
        )
        container = {"name": "engine", "image": "vllm", "ports": [{"name": "http", "containerPort": engine.port}]}
        release.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "idle", "namespace": release.served, "labels": names.engine_labels("idle")},
                "spec": {"containers": [container], "automountServiceAccountToken": False},
            }
        )
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        status = {"status": {"phase": "Running", "podIP": GATEWAY_ADDRESS, "conditions": [ready]}}
        release.kubectl(
            *("-n", release.served, "patch", "pod", "idle", "--subresource=status", "-p", json.dumps(status))
        )
        await until(lambda: is_marked(release, "idle"), seconds=60.0)
        # It says that it sleeps, and refuses to wake up.
        asleep.append(True)
        awake = json.dumps([{"op": "remove", "path": "/spec/scaling/sleep"}])
        release.kubectl("-n", release.served, "patch", "llm", "idle", "--type=json", "-p", awake)
        await until(partial(is_gone, release, "pod", "idle"), seconds=180.0)


def build_engine(asleep: list[bool]) -> web.Application:
    """An engine that is awake until told otherwise, and does nothing that it is told to."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": bool(asleep)})

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=500)

    app = web.Application()
    app.router.add_get("/is_sleeping", answer)
    app.router.add_post("/wake_up", refuse)
    return app


def is_marked(release: Release, name: str) -> bool:
    pod = release.find("pod", name, release.served)
    return pod is not None and is_asleep(pod)


def stranger(name: str, namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": "other"}, "ports": [{"port": 80}]},
    }


ORPHANS: dict[str, Manifest] = {
    "Deployment": {
        "apiVersion": "apps/v1",
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "old"}},
            "template": {
                "metadata": {"labels": {"app": "old"}},
                "spec": {"containers": [{"name": "engine", "image": "old"}]},
            },
        },
    },
    "Service": {"apiVersion": "v1", "spec": {"ports": [{"port": 80}]}},
    "NetworkPolicy": {"apiVersion": "networking.k8s.io/v1", "spec": {"podSelector": {}}},
    "PodDisruptionBudget": {"apiVersion": "policy/v1", "spec": {"maxUnavailable": 1}},
    "PersistentVolumeClaim": {
        "apiVersion": "v1",
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    },
    "PodMonitor": {
        "apiVersion": "monitoring.coreos.com/v1",
        "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "http"}]},
    },
    "LeaderWorkerSet": {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "spec": {
            "replicas": 0,
            "leaderWorkerTemplate": {
                "size": 2,
                "workerTemplate": {"spec": {"containers": [{"name": "engine", "image": "old"}]}},
            },
        },
    },
}


def orphan(kind: str, owner: Manifest) -> Manifest:
    """A child of the LLMDeployment by label and owner, which no version of Lull wants now."""
    metadata = owner["metadata"]
    return {
        "apiVersion": ORPHANS[kind]["apiVersion"],
        "kind": kind,
        "metadata": {
            "name": f"{metadata['name']}-old",
            "namespace": metadata["namespace"],
            "labels": {names.LABEL_DEPLOYMENT: metadata["name"]},
            "ownerReferences": [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": ORPHANS[kind]["spec"],
    }


def serves(server: ApiServer, plural: str) -> bool:
    """Whether discovery knows the kind by now."""
    return plural in server.kubectl("api-resources", "-o", "name", check=False)


def is_gone(release: Release, kind: str, name: str) -> bool:
    """Whether it was deleted: a claim waits for a controller that is not here to find that no pod uses it."""
    found = release.find(kind, name, release.served)
    return found is None or "deletionTimestamp" in found["metadata"]


def reason(release: Release, name: str) -> str:
    """Why it is ready, or is not."""
    found = release.find("llmdeployment", name, release.served) or {}
    conditions = found.get("status", {}).get("conditions", [])
    return next((one["reason"] for one in conditions if one["type"] == "Ready"), "")


def replicas(release: Release, kind: str, name: str) -> int | None:
    found = release.find(kind, name, release.served)
    return None if found is None else found["spec"]["replicas"]


@asynccontextmanager
async def running(release: Release, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Operator and gateway, each as its own account and as the chart configures it; the gateway's base URL."""
    kubeconfigs = {component: release.log_in(component) for component in COMPONENTS}
    # Kopf logs in by itself, as a pod or as the environment says.
    monkeypatch.setitem(os.environ, "KUBECONFIG", str(kubeconfigs["operator"]))
    port, gateway_admin, operator_admin = (free_port() for _ in range(3))
    gateway_settings = GatewaySettings.model_validate(
        {**release.environment("gateway"), "port": port, "admin_port": gateway_admin, "lame_duck_seconds": 0}
    )
    operator_settings = OperatorSettings.model_validate(
        {**release.environment("operator"), "admin_port": operator_admin}
    )
    publish(release, operator_settings.gateway_service, gateway_admin)
    stop = asyncio.Event()
    async with (
        connect(str(kubeconfigs["gateway"])) as of_gateway,
        connect(str(kubeconfigs["operator"])) as of_operator,
        httpx.AsyncClient(transport=ToLoopback(), trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(server.serve(gateway_settings, Cluster(of_gateway, gateway_settings.scope), stop=stop))
        group.create_task(operator.serve(operator_settings, of_operator, Http(client), stop=stop))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            stop.set()


def publish(release: Release, service: str, port: int) -> None:
    """Say where the gateway is, in the place of the controllers that are not there."""
    release.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": "IPv4",
            "metadata": {
                "namespace": release.home,
                "name": "gateways",
                "labels": {"kubernetes.io/service-name": service},
            },
            "ports": [{"name": "admin", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [GATEWAY_ADDRESS], "targetRef": {"kind": "Pod", "name": "gateway-0"}}],
        }
    )


async def until(is_there: Callable[[], bool], *, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(is_there):  # noqa: ASYNC110  the condition is the API server's
            await asyncio.sleep(0.05)
