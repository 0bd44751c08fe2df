"""Learn what earlier days ask for, from Prometheus, beside the decisions: none of them waits for it.

Each LLMDeployment with `spec.scaling.forecast` is looked at anew when a step of its history is over, at a time of its
own within the next step, so that thousands of them do not ask at once. A forecast serves for an hour after the last
answer; then decisions go on without.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from zlib import crc32

import structlog

from lull.core.forecast import STEP, Forecast, Unusable, find_ahead, learn_forecast
from lull.core.learning import COLD_START
from lull.core.scaling import find_target
from lull.doors import clock, metrics
from lull.doors.prometheus import Unavailable

if TYPE_CHECKING:
    from lull.api.llmdeployment import Key, LLMDeployment
    from lull.api.scaling import ForecastSpec
    from lull.core.forecast import Ahead, Series
    from lull.core.learning import Knowledge
    from lull.doors.prometheus import Prometheus
    from lull.doors.store import Store

log = structlog.get_logger(__name__)

_PAUSE: Final = 1.0
_SETTLE: Final = 20.0
"""After the end of a step, until Prometheus has its last samples."""
_RETRY: Final = 60.0
_AT_A_TIME: Final = 4
_UNUSED: Final = "The forecast is not used: "


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the past of one LLMDeployment asks for now."""

    ahead: Ahead | None
    remark: str
    """For the condition ScalingActive; the same while nothing changes."""


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What is known of one LLMDeployment's past."""

    spec: ForecastSpec
    due_at: float
    series: Series | None = None
    seconds: float | None = None
    """That a request spends with an engine."""
    forecast: Forecast | Unusable | None = None
    error: str | None = None
    """Why Prometheus' last answer was none."""


class Forecaster:
    """A forecast for each LLMDeployment that wants one."""

    def __init__(self, prometheus: Prometheus | None, *, store: Store) -> None:
        """`prometheus` is None where the operator knows none."""
        self._prometheus = prometheus
        self._store = store
        self._learnt: dict[Key, _Learnt] = {}
        self._asking: set[Key] = set()
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    def look(self, deployment: LLMDeployment, knowledge: Knowledge | None, *, wall: float) -> Outlook:
        """What the past asks for, and what is to be said of it."""
        spec = deployment.spec.scaling.forecast
        if spec is None:
            return Outlook(None, "")
        learnt = self._learnt.get(deployment.key, _Learnt(spec, due_at=0.0))
        forecast, cold_start = learnt.forecast, deployment.cold_start
        if not isinstance(forecast, Forecast) or forecast.find_rate(wall, ahead=cold_start or COLD_START) is None:
            return Outlook(None, _UNUSED + f"{self._explain(learnt)}.")
        carried = find_target(deployment.spec) / learnt.seconds if learnt.seconds else None
        ahead = find_ahead(forecast, knowledge, wall=wall, cold_start=cold_start, carried=carried)
        if ahead is None:
            return Outlook(None, _UNUSED + "it is not known what a replica carries.")
        words = []
        if ahead.replicas:
            words.append(f"The forecast, by {forecast.pattern.value}, asks for {ahead.replicas} now.")
        if learnt.error is not None:
            words.append(f"Prometheus does not answer ({learnt.error}): what it said before counts for an hour.")
        return Outlook(ahead, " ".join(words))

    def _explain(self, learnt: _Learnt) -> str:
        """Why there is nothing to go by."""
        if self._prometheus is None:
            return "the operator knows no Prometheus (prometheus.url of the chart)"
        if learnt.error is not None:
            return f"Prometheus does not answer ({learnt.error})"
        if isinstance(learnt.forecast, Unusable):
            return learnt.forecast.message
        return "Prometheus has not answered yet"

    async def run(self) -> None:
        """Learn what is due, for ever."""
        if self._prometheus is None:
            return
        async with asyncio.TaskGroup() as group:
            while True:
                now = clock.wall()
                wanted = {
                    one.key: one
                    for one in self._store.list_deployments()
                    if one.spec.scaling.forecast is not None and not one.deleting
                }
                for key in self._learnt.keys() - wanted.keys():
                    del self._learnt[key]
                for key, deployment in wanted.items():
                    if key not in self._asking and self._is_due(deployment, now):
                        self._put_off(key, deployment, now)
                        self._asking.add(key)
                        group.create_task(self._learn(self._prometheus, deployment))
                await asyncio.sleep(_PAUSE)

    def _is_due(self, deployment: LLMDeployment, now: float) -> bool:
        learnt = self._learnt.get(deployment.key)
        # A clock that was set back must not put everything off for as long.
        return (
            learnt is None
            or learnt.spec != deployment.spec.scaling.forecast
            or not learnt.due_at - 2 * STEP <= now < learnt.due_at
        )

    def _put_off(self, key: Key, deployment: LLMDeployment, now: float) -> None:
        """To the next step, at a time of its own."""
        spec = deployment.spec.scaling.forecast
        assert spec is not None
        share = crc32(str(key).encode()) / 2**32
        due_at = (now // STEP + 1) * STEP + _SETTLE + share * (STEP - _SETTLE)
        learnt = self._learnt.get(key)
        is_same = learnt is not None and learnt.spec == spec
        self._learnt[key] = replace(learnt, due_at=due_at) if learnt is not None and is_same else _Learnt(spec, due_at)

    async def _learn(self, prometheus: Prometheus, deployment: LLMDeployment) -> None:
        key = deployment.key
        try:
            async with self._turns:
                learnt = self._learnt.get(key)
                if learnt is not None:
                    learnt = await self._ask(prometheus, deployment, learnt)
        finally:
            self._asking.discard(key)
        # The object may be gone by now.
        if learnt is not None and key in self._learnt:
            self._learnt[key] = learnt

    async def _ask(self, prometheus: Prometheus, deployment: LLMDeployment, learnt: _Learnt) -> _Learnt:
        key, wall = deployment.key, clock.wall()
        try:
            series = await prometheus.read_arrivals(key, wall=wall, days=learnt.spec.days, known=learnt.series)
            seconds = await prometheus.read_seconds(key)
        except Unavailable as error:
            metrics.HISTORY_READS.labels("failed").inc()
            if learnt.error is None:
                log.warning("history not read", key=str(key), error=str(error))
            return replace(learnt, error=str(error), due_at=min(learnt.due_at, wall + _RETRY))
        metrics.HISTORY_READS.labels("ok").inc()
        if learnt.error is not None:
            log.info("history read again", key=str(key))
        ahead = deployment.cold_start or COLD_START
        # A quarter of a second of work for eight weeks: decisions take place meanwhile.
        forecast = await asyncio.to_thread(
            learn_forecast, series, wall=wall, ahead=ahead, timezone=learnt.spec.timezone
        )
        return replace(learnt, series=series, seconds=seconds, forecast=forecast, error=None)
