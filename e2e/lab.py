"""Lull installed on a cluster, as the demo, the scenarios and the benchmarks use it.

`install()` is the slow part, once per run: cluster, images, chart. `Lab` is the quick part: an asyncio view of the
cluster through `kubectl proxy`, so that one code path serves every provider.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import openai
import yaml
from kubernetes.aio.client import Configuration

from e2e.cluster import Cluster, find_cluster
from e2e.images import build
from e2e.progress import step
from lull.api import names
from lull.doors.kube import DEPLOYMENTS, LLMDEPLOYMENTS, PODS, Kube

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from lull.api.llmdeployment import Manifest

ROOT: Final = Path(__file__).resolve().parent.parent
SYSTEM: Final = "lull-system"
RELEASE: Final = "lull"
BIG_NODE: Final = "lull-worker"
"""The one node that carries engine-cpu's image."""
PATIENCE: Final = 240.0
"""Longest wait for a state, in seconds: what comes in seconds takes minutes where the machine has others to serve."""
FAULT_LINES: Final = 40
"""Of what a component wrote, that are told where a scenario fails."""
_KILLED: Final = {128 + 9, 128 + 15, 255}
"""Exit codes of what was ended from outside; 255 where nobody saw how."""
_ANSWERED: Final = re.compile(r'"code":200,.*"error":null,.*"event":"request"')


@dataclass(frozen=True, slots=True)
class Installation:
    """A cluster with Lull on it."""

    cluster: Cluster
    images: dict[str, str]
    """Image references by name: lull, engine-sim, engine-cpu."""
    proxy: str
    """Base URL of `kubectl proxy`."""

    def gateway_url(self) -> str:
        """Base URL of the gateways' Service: stable over their restarts, another one after a reinstallation."""
        return self.cluster.service_url(SYSTEM, "lull-gateway", 80)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl; its standard output, or RuntimeError with its standard error."""
        result = subprocess.run(
            [str(self.cluster.kubectl), "--kubeconfig", str(self.cluster.kubeconfig), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if check and result.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout if check else result.stdout + result.stderr

    def load(self, name: str) -> str:
        """Build one more image and bring it into the cluster; its reference."""
        (image,) = build([name]).values()
        self.cluster.load(image.archive, nodes=None)
        return image.reference

    def apply(self, *manifests: Manifest) -> None:
        """`kubectl apply` of manifests, as a user would."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))


@contextmanager
def install(image_names: Sequence[str], *, values: Sequence[str] = ()) -> Iterator[Installation]:
    """Bring up the cluster, build and load the images, install the chart; every part that stands is reused."""
    cluster = find_cluster()
    cluster.up()
    built = build(image_names)
    for name in image_names:
        cluster.load(built[name].archive, nodes=[BIG_NODE] if name == "engine-cpu" else None)
    images = {name: built[name].reference for name in image_names}
    with step("helm upgrade --install"):
        helm_install(cluster, images["lull"], values)
    with _kubectl_proxy(cluster) as proxy:
        yield Installation(cluster, images, proxy)


def helm_install(cluster: Cluster, image: str, values: Sequence[str] = ()) -> None:
    """Install or upgrade the chart and wait until its pods are ready."""
    repository, _, tag = image.rpartition(":")
    helm(
        cluster,
        *("upgrade", "--install", RELEASE, str(ROOT / "charts/lull"), "--create-namespace"),
        *("--set", f"image.repository={repository}", "--set", f"image.tag={tag}"),
        *(part for value in values for part in ("--set", value)),
        *("--wait", "--timeout", "3m"),
    )


def helm(cluster: Cluster, *arguments: str) -> str:
    """Run helm in Lull's namespace; its standard output, or RuntimeError with its standard error."""
    result = subprocess.run(
        [str(cluster.helm), "--kubeconfig", str(cluster.kubeconfig), "--namespace", SYSTEM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    if result.returncode != 0:
        raise RuntimeError(f"helm {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


@contextmanager
def _kubectl_proxy(cluster: Cluster) -> Iterator[str]:
    with subprocess.Popen(
        [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), "proxy", "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.search(r"127\.0\.0\.1:\d+", line)
            if match is None:
                raise RuntimeError(f"kubectl proxy did not start: {line!r}")
            yield f"http://{match[0]}"
        finally:
            process.terminate()


@dataclass
class Lab:
    """What a scenario sees and does, in one namespace of its own."""

    installation: Installation
    namespace: str
    kube: Kube
    session: aiohttp.ClientSession
    client: openai.AsyncOpenAI
    gateway: str
    """Where clients send their requests."""

    async def apply(self, *manifests: Manifest) -> None:
        """`kubectl apply` into the lab's namespace."""
        placed = [{**m, "metadata": {"namespace": self.namespace, **m["metadata"]}} for m in manifests]
        await asyncio.to_thread(self.installation.apply, *placed)

    async def kubectl(self, *arguments: str, check: bool = True) -> str:
        """Run kubectl in the lab's namespace."""
        return await asyncio.to_thread(
            self.installation.kubectl, "--namespace", self.namespace, *arguments, check=check
        )

    async def llm(self, name: str) -> Manifest:
        """The LLMDeployment; AssertionError where there is none."""
        found = await self.kube.get(LLMDEPLOYMENTS, self.namespace, name)
        assert found is not None, f"no LLMDeployment {name}"
        return found

    async def pods(self, name: str) -> list[Manifest]:
        """Engine pods of an LLMDeployment, terminating ones included."""
        listing = await self.kube.list(PODS, namespace=self.namespace, labels=f"{names.LABEL_DEPLOYMENT}={name}")
        return list(listing.items)

    async def replicas(self, name: str) -> int:
        """The replica count that the LLMDeployment's workloads are asked for."""
        listing = await self.kube.list(DEPLOYMENTS, namespace=self.namespace, labels=f"{names.LABEL_DEPLOYMENT}={name}")
        return sum(item["spec"]["replicas"] for item in listing.items)

    async def demand(self) -> dict[str, dict[str, Any]]:
        """Held and in flight by LLMDeployment, summed over the gateways that answer."""
        gateways = await self.kube.list(PODS, namespace=SYSTEM, labels=f"{names.LABEL_COMPONENT}=gateway")
        answers = await asyncio.gather(
            *(self._demand_of(pod["metadata"]["name"]) for pod in gateways.items), return_exceptions=True
        )
        total: dict[str, dict[str, Any]] = {}
        for answer in answers:
            if isinstance(answer, BaseException):
                continue
            for key, counts in answer["models"].items():
                sums = total.setdefault(key, {"held": 0, "inFlight": 0, "arrived": 0})
                for count in sums:
                    sums[count] += counts[count]
        return total

    async def _demand_of(self, pod: str) -> Any:
        path = f"/api/v1/namespaces/{SYSTEM}/pods/{pod}:{names.PORT_ADMIN}/proxy/demand"
        async with self.session.get(self.installation.proxy + path, timeout=aiohttp.ClientTimeout(total=5)) as response:
            response.raise_for_status()
            return await response.json(content_type=None)

    async def until_asked(self, name: str, count: int) -> None:
        """Wait until the gateways have so many requests for an LLMDeployment, held or in flight."""

        async def check() -> bool:
            counts = (await self.demand()).get(f"{self.namespace}/{name}", {"held": 0, "inFlight": 0})
            return bool(counts["held"] + counts["inFlight"] >= count)

        await self.until(f"{name}: {count} requests at the gateways", check, every=0.1)

    async def kill(self, component: str) -> None:
        """End every pod of one part of Lull at once, as a crash would."""
        await asyncio.to_thread(
            self.installation.kubectl,
            *("-n", SYSTEM, "delete", "pod", "-l", f"{names.LABEL_COMPONENT}={component}"),
            *("--force", "--grace-period=0"),
        )

    async def sim(self, pod: str, **settings: Any) -> None:
        """Change a running engine-sim's behaviour."""
        async with self.session.post(self._sim_url(pod) + "/config", json=settings) as response:
            assert response.status == 200, await response.text()

    async def running(self, pod: str) -> int:
        """Requests that an engine-sim is answering."""
        async with self.session.get(self._sim_url(pod) + "/state") as response:
            assert response.status == 200, await response.text()
            return int((await response.json())["running"])

    async def is_asleep(self, pod: str) -> bool:
        """Whether an engine sleeps, by its own word."""
        async with self.session.get(self._engine_url(pod) + "/is_sleeping") as response:
            assert response.status == 200, await response.text()
            return bool((await response.json())["is_sleeping"])

    def _sim_url(self, pod: str) -> str:
        return self._engine_url(pod) + "/sim"

    def _engine_url(self, pod: str) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}:{names.PORT_ENGINE}/proxy"
        return self.installation.proxy + path

    async def until(self, what: str, check: Callable[[], Any], *, within: float = PATIENCE, every: float = 0.25) -> Any:
        """Wait until an async check gives something true, and return it; AssertionError says what did not happen."""
        deadline = time.monotonic() + within
        last: Any = None
        while time.monotonic() < deadline:
            try:
                last = await check()
            except (AssertionError, KeyError, IndexError) as error:
                last = error
            else:
                if last:
                    return last
            await asyncio.sleep(every)
        raise AssertionError(f"{what}: not within {within:.0f} s (last: {last!r})\n{await self.describe()}")

    async def until_condition(
        self, name: str, kind: str, status: str, reason: str = "", *, within: float = PATIENCE
    ) -> Manifest:
        """Wait until a condition has this status, and this reason where one is given."""

        async def check() -> Manifest | None:
            condition = conditions(await self.llm(name)).get(kind, {})
            fits = condition.get("status") == status and reason in {"", condition.get("reason")}
            return condition if fits else None

        found: Manifest = await self.until(f"{name}: {kind}={status} {reason}", check, within=within)
        return found

    async def until_replicas(self, name: str, count: int, *, ready: bool = True, within: float = PATIENCE) -> None:
        """Wait until exactly so many replicas exist, all of them ready unless told otherwise."""

        async def check() -> bool:
            pods = [pod for pod in await self.pods(name) if "deletionTimestamp" not in pod["metadata"]]
            return len(pods) == count and (not ready or all(map(is_ready, pods)))

        await self.until(f"{name}: {count} replicas", check, within=within)

    async def describe(self) -> str:
        """What a person would look at when something did not happen."""
        parts = [
            await self.kubectl("get", "llm,deploy,pods", "-o", "wide", check=False),
            await self.kubectl("get", "llm", "-o", "yaml", check=False),
            await self.tell_faults(),
        ]
        return "\n".join(parts)

    async def tell_crashes(self, since: datetime) -> str:
        """Gateways that ended by themselves since then, with their last words; empty where none did.

        Those that somebody killed did not, nor those whose node was stopped.
        """
        told = []
        for pod in (await self.kube.list(PODS, namespace=SYSTEM, labels=f"{names.LABEL_COMPONENT}=gateway")).items:
            for container in pod["status"].get("containerStatuses", ()):
                ended = container.get("lastState", {}).get("terminated", {})
                is_killed = ended.get("exitCode", 0) in _KILLED and ended["reason"] != "OOMKilled"
                if ended.get("exitCode", 0) and not is_killed and datetime.fromisoformat(ended["finishedAt"]) >= since:
                    name = pod["metadata"]["name"]
                    words = await asyncio.to_thread(
                        self.installation.kubectl,
                        *("--namespace", SYSTEM, "logs", "--previous", f"--tail={FAULT_LINES}", name),
                        check=False,
                    )
                    told.append(f"{name}: {ended}\n{words}")
        return "\n".join(told)

    async def tell_faults(self) -> str:
        """Lull's pods, and the end of what they wrote in the last minutes; of requests those only that went wrong."""
        pods, *logs = await asyncio.gather(
            asyncio.to_thread(self.installation.kubectl, "--namespace", SYSTEM, "get", "pods", check=False),
            *(
                asyncio.to_thread(
                    self.installation.kubectl,
                    *("--namespace", SYSTEM, "logs", "--prefix", "--since=10m", "--tail=-1"),
                    *("-l", f"{names.LABEL_COMPONENT}={component}"),
                    check=False,
                )
                for component in ("operator", "gateway")
            ),
        )
        told = [[line for line in log.splitlines() if not _ANSWERED.search(line)][-FAULT_LINES:] for log in logs]
        return "\n".join([pods, *itertools.chain(*told)])


@asynccontextmanager
async def open_lab(installation: Installation, namespace: str, *, keep: bool = False) -> AsyncIterator[Lab]:
    """A namespace of one's own, on its way out afterwards unless it is to be kept."""
    await asyncio.to_thread(
        installation.apply, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    )
    gateway = await asyncio.to_thread(installation.gateway_url)
    configuration = Configuration(host=installation.proxy)
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, read_bufsize=2**21) as session,
            openai.AsyncOpenAI(base_url=gateway + "/v1", api_key="none", max_retries=0, timeout=600) as client,
        ):
            yield Lab(installation, namespace, Kube(session, configuration), session, client, gateway)
    finally:
        if not keep:
            with suppress(RuntimeError):
                await asyncio.to_thread(installation.kubectl, "delete", "namespace", namespace, "--wait=false")


def conditions(manifest: Manifest) -> dict[str, Manifest]:
    """Conditions of an object by type."""
    return {condition["type"]: condition for condition in manifest.get("status", {}).get("conditions", [])}


def is_ready(pod: Manifest) -> bool:
    """Whether the pod is ready to serve and not on its way out."""
    return "deletionTimestamp" not in pod["metadata"] and conditions(pod).get("Ready", {}).get("status") == "True"


def sim_deployment(
    installation: Installation, name: str, *, sim: dict[str, Any] | None = None, **spec: Any
) -> Manifest:
    """An LLMDeployment served by engine-sim: quick to start, quick to fall asleep."""
    flags = {"startup": 2, **(sim or {})}
    scaling = {
        "minReplicas": 0,
        "maxReplicas": 3,
        "idleAfter": "10s",
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
        **spec.pop("scaling", {}),
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "file:///opt/models/sim"},
            "engine": {
                "image": installation.images["engine-sim"],
                "maxNumSeqs": 4,
                "extraArgs": [f"--sim-{key.replace('_', '-')}={value}" for key, value in flags.items()],
                **spec.pop("engine", {}),
            },
            "accelerator": {"vendor": "Cpu"},
            "resources": {"sharedMemory": "16Mi"},
            "scaling": scaling,
            "rollout": {"drain": "10s"},
            **spec,
        },
    }
