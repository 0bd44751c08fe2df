"""How soon a burst gets more replicas: from the first request that waits to a larger count in the API server.

Twenty bursts from 1 to 40 clients on models with one replica of engine-sim and Lull's default policy. When requests
wait is read from the gateways, as often as they answer; when more replicas are asked for is told by a watch of the
workloads. What was read is then put before the rules of the HorizontalPodAutoscaler and of KEDA, as if their metrics
took no time, at every phase of their period of 15 s.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.autoscaling.hpa import SYNC, Hpa, Keda
from bench.claims import Claim, percentile
from e2e.lab import install, open_lab, sim_deployment
from e2e.progress import say
from e2e.scenarios.clients import load
from lull.api import names
from lull.doors.kube import DEPLOYMENTS, WatchEvent, reflect
from tests.fakes.views import make_view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from e2e.lab import Installation, Lab
    from lull.api.llmdeployment import Manifest
    from lull.core.simulation.fleet import Scaler, View

BURSTS: Final = 20
CLIENTS: Final = 40
MODELS: Final = 3
"""Models that take turns, so that one can give its replicas back while the next has its burst."""
SEATS: Final = 4
"""Requests that an engine works on at a time."""
MOST: Final = 8
STARTUP: Final = 2.0
"""Seconds that an engine takes to start."""
ANSWER_TOKENS: Final = 10
"""A second's worth."""
LIMIT_MS: Final = 1500.0
PHASES: Final = 100
_EVERY: Final = 0.02
"""Between two looks at the gateways."""
_HORIZON: Final = 120.0
"""For so long others are given the time to notice."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What the gateways said of one model; `asked_at` is before they were asked."""

    asked_at: float
    at: float
    held: int
    in_flight: int

    @property
    def waiting(self) -> int:
        """Held, or in the one engine's queue."""
        return self.held + max(0, self.in_flight - SEATS)


@dataclass(frozen=True, slots=True)
class Burst:
    """How one burst went, in seconds."""

    until_more: float
    """From the first request that waited to a count above one."""
    until_last: float
    """To the last count before a further replica can have been ready."""
    asked_for: int
    """That count."""
    hpa: tuple[float, ...]
    """What its rules would have taken to ask for more, at each phase."""
    keda: tuple[float, ...]


@dataclass(slots=True)
class Workload:
    """What the watch told of one model's workload."""

    replicas: int = 0
    rises: list[tuple[float, int]] = field(default_factory=list)
    """Counts that were higher than the one before, and when they were seen."""
    second_at: float | None = None
    """When a second replica was ready."""

    def see(self, replicas: int, ready: int) -> None:
        now = time.monotonic()
        if replicas > self.replicas:
            self.rises.append((now, replicas))
        self.replicas = replicas
        if ready > 1 and self.second_at is None:
            self.second_at = now

    def begin(self) -> None:
        self.rises, self.second_at = [], None


def measure() -> list[Claim]:
    """Let models have their bursts, one after another."""
    with install(["lull", "engine-sim"]) as installation:
        bursts = asyncio.run(_measure(installation))
    return [
        *_claim("by Lull", [burst.until_more for burst in bursts], limit=LIMIT_MS),
        *_claim("by Lull, all at once", [burst.until_last for burst in bursts]),
        *_claim("by the HPA's rules", [took for burst in bursts for took in burst.hpa]),
        *_claim("by KEDA's rules", [took for burst in bursts for took in burst.keda]),
    ]


def find_rise(scaler: Scaler, moments: Sequence[Moment], *, since: float, phase: float) -> float:
    """Seconds from `since` to the first sync at which a scaler asks for more than one replica.

    What was last read goes on: with nobody to add a replica, no fewer would wait.
    """
    at = since - SYNC + phase
    while at <= since + _HORIZON:
        last = next((moment for moment in reversed(moments) if moment.at <= at), moments[0])
        if scaler.scale(_look(last, at)) > 1:
            return at - since
        at += SYNC
    return _HORIZON


def judge(workload: Workload, moments: Sequence[Moment], *, began: float) -> Burst:
    """Put what was seen of one burst together."""
    assert workload.second_at is not None
    seen = [moment for moment in moments if moment.at < workload.second_at]
    first = next(number for number, moment in enumerate(seen) if moment.waiting)
    # Whoever waits came after the gateways had been asked the time before, when nobody did.
    waiting_at = max(began, seen[first - 1].asked_at)
    first_at, _ = workload.rises[0]
    last_at, asked_for = [rise for rise in workload.rises if rise[0] < first_at + STARTUP][-1]
    phases = [SYNC * (number + 0.5) / PHASES for number in range(PHASES)]
    return Burst(
        until_more=first_at - waiting_at,
        until_last=last_at - waiting_at,
        asked_for=asked_for,
        hpa=tuple(find_rise(Hpa(most=MOST), seen, since=waiting_at, phase=phase) for phase in phases),
        keda=tuple(find_rise(Keda(least=1, most=MOST), seen, since=waiting_at, phase=phase) for phase in phases),
    )


def _look(moment: Moment, at: float) -> View:
    """What somebody who scales one ready replica sees."""
    running = min(moment.in_flight, SEATS)
    return make_view(at, held=moment.held, waiting=moment.in_flight - running, running=running)


def _claim(who: str, took: Sequence[float], *, limit: float | None = None) -> list[Claim]:
    return [
        Claim(
            f"first waiting request → replicas asked for {who}, p{percent}",
            percentile(took, percent) * 1000,
            limit if percent == 99 else None,
            "ms",
            len(took),
        )
        for percent in (50, 99)
    ]


async def _measure(installation: Installation) -> list[Burst]:
    bursts: list[Burst] = []
    async with open_lab(installation, "bench-burst") as lab:
        models = [f"burst-{number}" for number in range(MODELS)]
        await lab.apply(*(_build(installation, model) for model in models))
        async with _watching(lab, models) as workloads:
            for number in range(BURSTS):
                model = models[number % MODELS]
                bursts.append(await _burst(lab, model, workloads[model]))
                last = bursts[-1]
                say(
                    f"  burst {number + 1:2}: more after {last.until_more * 1000:.0f} ms, "
                    f"{last.asked_for} after {last.until_last * 1000:.0f} ms"
                )
    return bursts


def _build(installation: Installation, model: str) -> Manifest:
    return sim_deployment(
        installation,
        model,
        sim={"decode_tps": ANSWER_TOKENS, "startup": STARTUP},
        engine={"maxNumSeqs": SEATS},
        scaling={
            "minReplicas": 1,
            "maxReplicas": MOST,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3}},
        },
    )


@asynccontextmanager
async def _watching(lab: Lab, models: Sequence[str]) -> AsyncIterator[dict[str, Workload]]:
    workloads = {model: Workload() for model in models}

    def see(event: WatchEvent) -> None:
        manifest = event.object
        workload = workloads[manifest["metadata"]["labels"][names.LABEL_DEPLOYMENT]]
        workload.see(manifest["spec"]["replicas"], manifest.get("status", {}).get("readyReplicas", 0))

    watching = asyncio.create_task(
        reflect(lab.kube, DEPLOYMENTS, see, namespace=lab.namespace, labels=names.LABEL_DEPLOYMENT)
    )
    try:
        yield workloads
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _burst(lab: Lab, model: str, workload: Workload) -> Burst:
    await lab.until_replicas(model, 1)
    moments: list[Moment] = []

    async with load(lab, model, clients=1, tokens=ANSWER_TOKENS) as steady:

        async def is_steady() -> bool:
            return steady.answered >= 2

        async def is_sampled() -> bool:
            return bool(moments)

        async def has_second() -> bool:
            return workload.second_at is not None

        await lab.until(f"{model}: the load before the burst", is_steady)
        workload.begin()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_sample(lab, model, workload, moments))
            await lab.until(f"{model}: the gateways were asked before the burst", is_sampled)
            began = time.monotonic()
            async with load(lab, model, clients=CLIENTS - 1, tokens=ANSWER_TOKENS):
                await lab.until(f"{model}: a second replica is ready", has_second)
    return judge(workload, moments, began=began)


async def _sample(lab: Lab, model: str, workload: Workload, moments: list[Moment]) -> None:
    """Ask the gateways until a second replica is ready."""
    while workload.second_at is None:
        asked_at = time.monotonic()
        counts = (await lab.demand()).get(f"{lab.namespace}/{model}", {"held": 0, "inFlight": 0})
        moments.append(Moment(asked_at, time.monotonic(), counts["held"], counts["inFlight"]))
        await asyncio.sleep(_EVERY)
