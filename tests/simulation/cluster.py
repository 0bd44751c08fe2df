"""A small cluster on virtual time: pods that load, gateways that may lie, engines, and the operator's own parts.

Everything of Lull that has to do with replica counts is the real thing, put together as in production: store,
collector, scraper, queue, autoscaler, recorder. What it talks to is here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any, cast

import httpx

from lull.api.llmdeployment import Key
from lull.cli.operator import App, assemble
from lull.doors import clock
from lull.doors.http import Http
from lull.settings import OperatorSettings
from tests.manifests import UID, manifest
from tests.simulation.apiserver import ApiServer, Manifest, Write

KEY = Key("default", "m")
LLMDEPLOYMENTS = "/apis/lull.dev/v1alpha1/namespaces/default/llmdeployments"
WORKLOADS = "/apis/apps/v1/namespaces/default/deployments"
WORKLOAD = f"{WORKLOADS}/m-default"
PODS = "/api/v1/namespaces/default/pods"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/lull-system/endpointslices"
LABELS = {"app.kubernetes.io/component": "engine", "lull.dev/deployment": "m", "lull.dev/pool": "default"}

MOST = 6
QUEUE, IN_FLIGHT = 1, 4
"""The targets; a replica serves as many at a time as the second says."""
SLEEPY = 20.0
WINDOW = 15.0
COLD_START = 25.0
"""Longer than the window: what loads is kept for a reason of its own."""
WAKE = 30.0
"""Longest time from a request to the first replica: an operator that is gone, answers that are late, and a tick."""
SCALING: dict[str, Any] = {
    "minReplicas": 0,
    "maxReplicas": MOST,
    "target": {"queueLength": QUEUE, "inFlight": IN_FLIGHT},
    "idleAfter": f"{SLEEPY:g}s",
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": int(WINDOW)}},
}
OPERATOR = "lull-autoscaler"


@dataclass
class Gateway:
    """One gateway process, and how it answers."""

    name: str
    chance: Random
    boot: str = "boot-0"
    sequence: int = 0
    held: int = 0
    in_flight: int = 0
    arrived: int = 0
    last_at: float | None = None
    is_troubled: bool = False
    """Whether answers are lost, late or from before."""
    lie: str = ""
    """`away`, `nothing`, `absurd`, `garbage` or `stale`; empty: it says what is true."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _before: bytes = b""

    def change(self, held: int, in_flight: int, *, arrived: int = 0) -> None:
        if arrived or held or in_flight:
            self.last_at = clock.monotonic()
        if (held, in_flight, 0) != (self.held, self.in_flight, arrived):
            self.held, self.in_flight, self.arrived = held, in_flight, self.arrived + arrived
            self.sequence += 1
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def restart(self) -> None:
        """A new process, which has forgotten what there was."""
        self.boot = f"boot-{self.chance.randrange(10**9)}"
        self.arrived, self.last_at = 0, None
        self.change(0, 0)

    async def answer(self, query: Mapping[str, str]) -> bytes:
        if self.lie == "away":
            raise httpx.ConnectError("away")
        if "after" in query and (int(query["after"]), query["boot"]) == (self.sequence, self.boot):
            with suppress(TimeoutError):
                async with asyncio.timeout(float(query["wait"])):
                    await self._changed.wait()
        content = self._render()
        if self.is_troubled:
            trouble = self.chance.random()
            if trouble < 0.15:
                raise httpx.ReadError("lost")
            if trouble < 0.3:
                await asyncio.sleep(self.chance.uniform(0.1, 3.0))
            elif trouble < 0.4 and self._before:
                content = self._before
        self._before = content
        return content

    def _render(self) -> bytes:
        if self.lie == "garbage":
            return self.chance.choice([b"", b"<html>", b'{"boot": "x", "sequence": -1, "models": {}}'])
        if self.lie == "stale" and self._before:
            return self._before
        factor = 10**6 if self.lie == "absurd" else 1
        models = {
            str(KEY): {
                "held": (self.held + 1) * factor if self.lie == "absurd" else self.held,
                "inFlight": self.in_flight * factor,
                "arrived": self.arrived,
                "sinceLast": None if self.last_at is None else clock.monotonic() - self.last_at,
            }
        }
        answer = {"boot": self.boot, "sequence": self.sequence, "models": {} if self.lie == "nothing" else models}
        return json.dumps(answer).encode()


@dataclass(frozen=True)
class Load:
    """So many requests at a time, for so long; a client that leaves at once does not wait for its answer."""

    seconds: float
    requests: int
    is_glimpse: bool = False
    past: int = 0
    """Requests at the engines that no gateway has."""


class Cluster:
    """What there is, whoever looks at it."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.api = ApiServer(Random(seed + 1))
        self.gateways = [Gateway(name, Random(seed + 2)) for name in ("gateway-0", "gateway-1")]
        self.load = Load(0.0, 0)
        self.violations: list[str] = []
        self.crash_at: int | None = None
        """The write of the operator, of which each counts twice, before and after, at which it ends."""
        self.writes = 0
        self.crashed = 0
        self._forsaken_at: float | None = None
        """Since when somebody has been asking what has no replicas."""
        self._names = iter(range(10**6))
        self._born: dict[str, float] = {}
        self._crash = asyncio.Event()
        self._wanted: int | None = None
        """What the operator that runs wrote last."""
        self._began = 0.0
        self.api.on_write = self._on_write
        written = manifest(name="m", scaling=SCALING)
        self.api.put(LLMDEPLOYMENTS, {**written, "metadata": {**written["metadata"], "uid": UID}})
        self.api.put(WORKLOADS, _workload())
        self.api.put(SLICES, _slice(self.gateways))

    @property
    def replicas(self) -> int:
        (workload,) = self.api.list(WORKLOADS)
        replicas: int = workload["spec"]["replicas"]
        return replicas

    @property
    def ready(self) -> list[Manifest]:
        return [pod for pod in self.api.list(PODS) if _is_ready(pod)]

    @property
    def ours(self) -> list[Write]:
        return [write for write in self.api.scales if write.manager == OPERATOR]

    def disturb(self, *, is_troubled: bool) -> None:
        self.api.is_troubled = is_troubled
        for gateway in self.gateways:
            gateway.is_troubled = is_troubled

    @asynccontextmanager
    async def operated(self) -> AsyncIterator[None]:
        """The cluster at work, with an operator."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._control()), group.create_task(self._operate())]
            yield
            for task in tasks:
                task.cancel()

    def crash(self) -> None:
        """End the operator, whatever it does."""
        self._crash.set()

    async def serve(self, *loads: Load) -> None:
        """Let demand go through these."""
        for load in loads:
            await self._apply(load)

    async def _apply(self, load: Load) -> None:
        until = clock.monotonic() + load.seconds
        self.load = load
        if load.is_glimpse:
            self._spread()
            await asyncio.sleep(0.1)
            self.load = Load(load.seconds, 0)
        woken = 0
        while clock.monotonic() < until:
            self._spread()
            woken = max(woken, self.replicas)
            await asyncio.sleep(0.5)
        if load.is_glimpse and load.requests and load.seconds > WAKE and not woken:
            self.violations.append(f"never woke for whoever came and left before {until}")

    def _spread(self) -> None:
        """Gateways give ready engines what these can take, and hold the rest."""
        room = len(self.ready) * IN_FLIGHT
        for number, gateway in enumerate(self.gateways):
            wanted = len(range(number, self.load.requests, len(self.gateways)))
            given = min(wanted, room)
            room -= given
            gateway.change(wanted - given, given, arrived=1 if wanted else 0)
        is_forsaken = self.load.requests > 0 and not self.replicas
        self._forsaken_at = (self._forsaken_at or clock.monotonic()) if is_forsaken else None
        if self._forsaken_at is not None and clock.monotonic() - self._forsaken_at > WAKE:
            self.violations.append(f"at zero with demand since {self._forsaken_at}, at {clock.monotonic()}")

    async def _control(self) -> None:
        """What Kubernetes does: pods that come, load, become ready and go."""
        while True:
            pods = sorted(self.api.list(PODS), key=lambda pod: (_is_ready(pod), -self._born[pod["metadata"]["name"]]))
            for pod in pods[: max(0, len(pods) - self.replicas)]:
                self.api.remove(PODS, pod["metadata"]["name"])
            for _ in range(self.replicas - len(pods)):
                name = f"m-default-{next(self._names)}"
                self._born[name] = clock.monotonic()
                self.api.put(PODS, _pod(name, ready=False, age=0.0))
            for pod in pods[max(0, len(pods) - self.replicas) :]:
                name = pod["metadata"]["name"]
                if not _is_ready(pod) and clock.monotonic() - self._born[name] >= COLD_START:
                    self.api.put(PODS, _pod(name, ready=True, age=clock.monotonic() - self._born[name]))
            await asyncio.sleep(0.25)

    async def _operate(self) -> None:
        """The operator; when it crashes, another one a while later, which knows nothing."""
        while True:
            self._crash.clear()
            operator = asyncio.ensure_future(self._run_operator())
            crash = asyncio.ensure_future(self._crash.wait())
            try:
                await asyncio.wait({operator, crash}, return_when=asyncio.FIRST_COMPLETED)
                if operator.done():
                    # A bug: nothing else ends it.
                    operator.result()
            finally:
                operator.cancel()
                crash.cancel()
                await asyncio.gather(operator, crash, return_exceptions=True)
            self.crashed += 1
            await asyncio.sleep(self.chance.uniform(2.0, 10.0))

    async def _run_operator(self) -> None:
        settings = OperatorSettings(namespace="lull-system", engine_tick_seconds=2.0)
        self._began = clock.monotonic()
        self._wanted = None
        await _lead(assemble(settings, self.api.connect(), Http(cast("httpx.AsyncClient", _Client(self)))), settings)

    async def _on_write(self, moment: str, path: str) -> None:
        self.writes += 1
        if moment == "after" and path.endswith("/scale"):
            self._judge(self.api.scales[-1])
        if self.writes == self.crash_at:
            self._crash.set()
            await asyncio.get_running_loop().create_future()

    def _judge(self, write: Write) -> None:
        """What no write may ever do; most of it can be told while nobody else writes."""
        before, self._wanted = self._wanted, write.replicas
        others = [one for one in self.api.scales[:-1] if one.manager != OPERATOR]
        loading = len(self.api.list(PODS)) - len(self.ready)
        is_first = len(self.ours) == 1
        is_ours = not others
        broken = {
            "out of bounds": not 0 <= write.replicas <= MOST,
            "down while some load": is_ours
            and loading
            and write.replicas < (write.before if before is None else before),
            "down just after a start": is_ours
            and 0 < write.replicas < write.before
            and write.at - self._began < WINDOW,
            "written for nothing": is_ours and write.replicas == write.before and not is_first,
        }
        self.violations += [f"{law}: {write}" for law, is_broken in broken.items() if is_broken]

    async def answer(self, url: str, query: Mapping[str, str]) -> bytes:
        """What a gateway or an engine says; httpx.HTTPError where nobody does."""
        host, _, path = url.removeprefix("http://").partition("/")
        host = host.partition(":")[0]
        if path == "demand":
            return await self.gateways[int(host.rpartition(".")[2])].answer(query)
        ready = self.ready
        served = sum(gateway.in_flight for gateway in self.gateways) + self.load.past
        mine = [pod["status"]["podIP"] for pod in ready]
        if host not in mine:
            raise httpx.ConnectError("gone")
        running = len(range(mine.index(host), served, len(mine)))
        return f"vllm:num_requests_running {running}\nvllm:num_requests_waiting 0\n".encode()


@dataclass(frozen=True)
class _Response:
    content: bytes
    status_code: int = 200

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        yield self.content


@dataclass(frozen=True)
class _Client:
    """As much of a client as `Http` uses."""

    cluster: Cluster

    @asynccontextmanager
    async def stream(
        self, _method: str, url: str, *, params: Mapping[str, str] | None, **_: object
    ) -> AsyncIterator[_Response]:
        yield _Response(await self.cluster.answer(url, params or {}))


async def _lead(app: App, settings: OperatorSettings) -> None:
    """What the operator does for replica counts while it leads."""

    def alive(_: str) -> None: ...

    async with asyncio.TaskGroup() as group:
        group.create_task(app.store.run(app.kube, namespace="default", on_alive=alive))
        group.create_task(app.recorder.run())
        group.create_task(app.collector.run())
        group.create_task(
            app.collector.discover(app.kube, namespace="lull-system", service=settings.gateway_service, on_alive=alive)
        )
        await app.store.wait_synced()
        group.create_task(app.scraper.run())
        for deployment in app.store.list_deployments():
            app.decisions.add(deployment.key)
        group.create_task(app.decisions.run(app.autoscaler.scale, workers=2, on_alive=alive))


def list_turns(writes: Sequence[Write]) -> Iterator[tuple[Write, Write]]:
    """Writes of which one takes back what the one before it did."""
    steps = [write for write in writes if write.before != write.replicas]
    for one, other in pairwise(steps):
        if (one.replicas > one.before) != (other.replicas > other.before):
            yield one, other


def _is_ready(pod: Manifest) -> bool:
    status: str = pod["status"]["conditions"][0]["status"]
    return status == "True"


def _workload() -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "namespace": "default",
            "name": "m-default",
            "uid": "workload",
            "labels": LABELS,
            "ownerReferences": [{"controller": True, "uid": UID}],
            "managedFields": [],
        },
        "spec": {"replicas": 0, "selector": {"matchLabels": LABELS}},
    }


def _pod(name: str, *, ready: bool, age: float) -> Manifest:
    created = clock.render_time(clock.wall() - age)
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "lastTransitionTime": clock.render_time(clock.wall()),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": name,
            "labels": LABELS,
            "creationTimestamp": created,
        },
        "spec": {},
        "status": {"phase": "Running", "conditions": [condition], "podIP": f"10.0.0.{name.rpartition('-')[2]}"},
    }


def _slice(gateways: Sequence[Gateway]) -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "lull-system", "name": "gateways"},
        "ports": [{"name": "admin", "port": 8081}],
        "endpoints": [
            {"addresses": [f"10.1.0.{number}"], "targetRef": {"name": gateway.name}}
            for number, gateway in enumerate(gateways)
        ],
    }
