"""Ask the engines that are ready for their metrics, every few seconds, beside everything else that goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from lull.core.adapters import parse_replicas
from lull.core.bypassing import KEPT_SECONDS, Finding, Look, assess, merge_engines, remember
from lull.core.enginemetrics import parse_metrics
from lull.doors import clock, metrics
from lull.doors.http import Unreachable

if TYPE_CHECKING:
    from collections.abc import Collection

    from lull.api.llmdeployment import Key
    from lull.autoscaler.collecting import Collector
    from lull.core.adapters import Replica
    from lull.core.enginemetrics import EngineSample
    from lull.core.signals import Demand
    from lull.doors.http import Http
    from lull.doors.store import Store

log = structlog.get_logger(__name__)

ENGINES_AT_ONCE: Final = 64
_ANSWER_SECONDS: Final = 3.0
_PAUSE: Final = 0.1
"""At least so long between two rounds, be there ever so many engines."""
_STALE_ROUNDS: Final = 3


class Scraper:
    """The last looks at the engines of each LLMDeployment that has ready ones; what sleeps costs nothing."""

    def __init__(self, http: Http, *, store: Store, collector: Collector, pause: float, stale_after: float) -> None:
        """`pause`: seconds from the beginning of a round to that of the next."""
        self._http = http
        self._store = store
        self._collector = collector
        self._pause = pause
        self._stale_after = max(stale_after, _STALE_ROUNDS * pause)
        self._looks: dict[Key, tuple[Look, ...]] = {}
        self._findings: dict[Key, Finding | None] = {}
        """Of the looks: they are a matter of seconds, and are asked for at every tick."""
        self._slots = asyncio.Semaphore(ENGINES_AT_ONCE)
        self._silent: frozenset[str] = frozenset()

    def merge(self, key: Key, demand: Demand | None, *, ready: int, now: float) -> Demand | None:
        """Demand of one LLMDeployment with what its engines say of it."""
        return merge_engines(demand, self._findings.get(key), ready=ready, now=now, stale_after=self._stale_after)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            began = clock.monotonic()
            await self.look()
            await asyncio.sleep(max(_PAUSE, began + self._pause - clock.monotonic()))

    async def look(self) -> None:
        """Ask all engines once."""
        awake = {deployment.key: self._list_awake(deployment.key) for deployment in self._store.list_deployments()}
        awake = {key: replicas for key, replicas in awake.items() if replicas}
        silent: set[str] = set()
        async with asyncio.TaskGroup() as group:
            for key, replicas in awake.items():
                group.create_task(self._look_at(key, replicas, silent))
        for gone in self._looks.keys() - awake.keys():
            del self._looks[gone], self._findings[gone]
        self._silent = frozenset(silent)

    def _list_awake(self, key: Key) -> tuple[Replica, ...]:
        # The gauges of one that sleeps stand still.
        return tuple(one for one in parse_replicas(self._store.list_pods(key)) if one.is_ready and not one.is_asleep)

    async def _look_at(self, key: Key, replicas: Collection[Replica], silent: set[str]) -> None:
        in_flight = 0

        def count_in_flight() -> Demand | None:
            nonlocal in_flight
            demand = self._collector.sum_demand(key, clock.monotonic())
            in_flight = max(in_flight, 0 if demand is None else demand.in_flight)
            return demand

        async def ask(replica: Replica) -> tuple[str, EngineSample | None]:
            process = f"{replica.uid}/{replica.restarts}"
            async with self._slots:
                # Before and after: one of the two is as it was when the engine answered, or higher.
                count_in_flight()
                sample = await self._ask(replica, process, silent)
                count_in_flight()
            return process, sample

        asked = await asyncio.gather(*map(ask, replicas))
        engines = {process: sample for process, sample in asked if sample is not None}
        gateways = count_in_flight()
        look = Look(clock.monotonic(), engines, in_flight, gateways)
        span = max(KEPT_SECONDS, _STALE_ROUNDS * self._pause)
        looks = self._looks[key] = remember(self._looks.get(key, ()), look, span=span)
        self._findings[key] = assess(looks)

    async def _ask(self, replica: Replica, process: str, silent: set[str]) -> EngineSample | None:
        """The engine's load; None where it does not say."""
        result = "unreachable"
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                content = await self._http.get(f"{replica.engine}/metrics", query={}, deadline=_ANSWER_SECONDS)
            result = "unreadable"
            sample = parse_metrics(content)
        except (Unreachable, TimeoutError, ValueError) as error:
            metrics.ENGINE_READS.labels(result).inc()
            silent.add(process)
            if process not in self._silent:
                log.warning("engine's metrics not read", pod=replica.pod, error=f"{type(error).__name__}: {error}")
            return None
        metrics.ENGINE_READS.labels("ok").inc()
        return sample
