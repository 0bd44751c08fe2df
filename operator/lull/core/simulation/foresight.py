"""What a forecast says in a simulation: history is what the scaler itself has seen come, and a past given to it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lull.core.forecast import DAY, STEP, Forecast, Series, find_ahead, learn_forecast
from lull.core.learning import COLD_START

if TYPE_CHECKING:
    from lull.api.scaling import ForecastSpec
    from lull.core.forecast import Ahead
    from lull.core.learning import Knowledge
    from lull.core.simulation.fleet import View


@dataclass(frozen=True, slots=True)
class Past:
    """What is known when a simulation begins."""

    series: Series
    """Arrivals up to then."""
    seconds: float | None = None
    """That a request spent with an engine."""


class Foresight:
    """Learns anew with each step of the history, as the operator does."""

    def __init__(self, spec: ForecastSpec, *, target_in_flight: int, past: Past | None = None) -> None:
        self._spec = spec
        self._target = target_in_flight
        self._values = deque(past.series.values if past is not None else (), maxlen=round(spec.days * DAY / STEP))
        self._seconds = None if past is None else past.seconds
        self._step_at: float | None = None
        self._counted = 0
        self._looked_at = 0.0
        self._busy = 0.0
        """Seconds that requests have spent with engines."""
        self._forecast: Forecast | None = None

    def look(self, view: View, knowledge: Knowledge | None) -> Ahead | None:
        """What history asks for now."""
        self._busy += view.in_flight * (view.now - self._looked_at)
        self._looked_at = view.now
        self._take(view)
        if self._forecast is None:
            return None
        seconds = self._busy / view.finished if view.finished else self._seconds
        return find_ahead(
            self._forecast,
            knowledge,
            wall=view.wall,
            cold_start=view.cold_start,
            carried=self._target / seconds if seconds else None,
        )

    def _take(self, view: View) -> None:
        begin = view.wall // STEP * STEP
        if self._step_at is None:
            self._step_at = begin
        if begin == self._step_at:
            return
        while self._step_at < begin:
            self._values.append((view.arrived - self._counted) / STEP)
            self._counted, self._step_at = view.arrived, self._step_at + STEP
        series = Series(begin - STEP * len(self._values), STEP, tuple(self._values))
        ahead = COLD_START if view.cold_start is None else view.cold_start
        learnt = learn_forecast(series, wall=view.wall, ahead=ahead, timezone=self._spec.timezone)
        self._forecast = learnt if isinstance(learnt, Forecast) else None
