"""`spec.scaling.forecast`: how many replicas earlier days ask for at this time of day.

What came at the same time on earlier days is expected again: on all of them, on those of the same kind (working days
and weekends), or on the same day of the week, whichever would have done best over the last day. Of these days the lower
median counts, scaled by how like them the last hours were, so that a holiday lowers what a usual Monday asks for.

Whether to believe it is asked of the history itself. The last day is forecast from the days before it, step by step,
and used where the load of a moment ago and the forecast, the higher of the two, would have served that day better than
the load of a moment ago alone. A forecast is a floor: it adds replicas and takes none away.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum, unique
from functools import lru_cache
from math import ceil
from statistics import median_low
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from lull.core.learning import COLD_START

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import tzinfo

    from lull.core.learning import Knowledge

STEP: Final = 300.0
"""Seconds over which arrivals are averaged."""
DAY: Final = 86400.0
_LEARNT_DAYS: Final = 2
"""So many days of one kind tell what is usual."""
_KNOWN_SHARE: Final = 0.7
"""Of the steps of the last day, for a verdict on it."""
_PLANNED: Final = 12
"""Steps beyond the look-ahead that a forecast serves, when nobody makes a new one."""
_LONGEST_AHEAD: Final = 3600.0
_LIKENESS_STEPS: Final = 24
_MOST_LIKE: Final = 1.25
_SHORTAGE: Final = 4.0
"""A request that nothing was ready for weighs as much as so many that something was ready for in vain."""
_WEEK: Final = 7
_SATURDAY: Final = 5
_TOLERANCE: Final = 0.05
"""So little of a replica is not worth one."""


@unique
class Pattern(StrEnum):
    """Which earlier days a day is like."""

    DAILY = "all days"
    KIND = "working days or weekends"
    WEEKLY = "the same day of the week"


@dataclass(frozen=True, slots=True)
class Series:
    """Arrivals a second in steps of equal length; None where nobody counted."""

    begin: float
    """Of the first step, in seconds since the Unix epoch."""
    step: float
    values: tuple[float | None, ...]

    @property
    def end(self) -> float:
        return self.begin + self.step * len(self.values)

    def find(self, at: float) -> float | None:
        """What came in the step that a moment lies in."""
        number = int((at - self.begin) // self.step)
        return self.values[number] if 0 <= number < len(self.values) else None


@dataclass(frozen=True, slots=True)
class Forecast:
    """Arrivals a second that are expected in steps from now on."""

    begin: float
    step: float
    rates: tuple[float, ...]
    pattern: Pattern

    def find_rate(self, wall: float, *, ahead: float) -> float | None:
        """The most that is expected within the look-ahead; None where the forecast is too old to say."""
        first = int((wall - self.begin) // self.step)
        last = int((wall + min(ahead, _LONGEST_AHEAD) - self.begin) // self.step)
        if not 0 <= first <= last < len(self.rates):
            return None
        return max(self.rates[first : last + 1])


@dataclass(frozen=True, slots=True)
class Unusable:
    """There is no forecast to go by."""

    message: str


@dataclass(frozen=True, slots=True)
class Ahead:
    """Replicas that the forecast asks for."""

    replicas: int
    message: str
    """What is expected, and of a replica."""


def learn_forecast(series: Series, *, wall: float, ahead: float, timezone: str = "UTC") -> Forecast | Unusable:
    """What to expect from `wall` on, if what there is of the past would have foretold the last day.

    `ahead` is the time that a start takes.
    """
    try:
        known = _Past(series, UTC if timezone == "UTC" else ZoneInfo(timezone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return Unusable(f"{timezone!r} is no time zone")
    end = series.begin + (wall - series.begin) // series.step * series.step
    day = [end - number * series.step for number in range(round(DAY / series.step), 0, -1)]
    came = [series.find(at) for at in day]
    lag = max(series.step, ceil(min(ahead, _LONGEST_AHEAD) / series.step) * series.step)
    if sum(value is not None for value in came) < _KNOWN_SHARE * len(day):
        return Unusable("Prometheus knows too little of the last day")
    verdicts = []
    for pattern in Pattern:
        told = [known.expect(at, pattern, since=at - lag) for at in day]
        if sum(value is not None for value in told) < _KNOWN_SHARE * len(day):
            continue
        rates = [known.expect(end + number * series.step, pattern, since=end) for number in range(_count(lag, series))]
        if any(rate is None for rate in rates):
            continue
        gain = sum(
            _weigh(value, before) - _weigh(value, max(before, rate or 0.0))
            for at, value, rate in zip(day, came, told, strict=True)
            if value is not None and (before := series.find(at - lag)) is not None
        )
        verdicts.append((gain, Forecast(end, series.step, tuple(rate or 0.0 for rate in rates), pattern)))
    if not verdicts:
        return Unusable(f"it takes {_LEARNT_DAYS} days to learn from and one to try it on, without long gaps")
    gain, best = max(verdicts, key=lambda verdict: verdict[0])
    if gain <= 0:
        return Unusable("over the last day it would have been no better than to go by the load of the moment")
    return best


def find_ahead(
    forecast: Forecast, knowledge: Knowledge | None, *, wall: float, cold_start: float | None, carried: float | None
) -> Ahead | None:
    """Replicas for what is expected by the time that one which is asked for now is ready.

    `carried` is how many requests a second one replica carries by its target, where nothing was learnt of it.
    """
    rate = forecast.find_rate(wall, ahead=COLD_START if cold_start is None else cold_start)
    capacity = knowledge.capacity if knowledge is not None and knowledge.is_known else carried
    if rate is None or not capacity:
        return None
    return Ahead(ceil(rate / capacity - _TOLERANCE), f"{rate:.3g} requests/s are usual at this time")


def _count(lag: float, series: Series) -> int:
    return _PLANNED + ceil(lag / series.step)


def _weigh(came: float, ready_for: float) -> float:
    return _SHORTAGE * (came - ready_for) if came > ready_for else ready_for - came


class _Past:
    """What came at the same time of earlier days."""

    def __init__(self, series: Series, zone: tzinfo) -> None:
        self._series = series
        self._zone = zone
        self._usual = lru_cache(maxsize=None)(self._find_usual)
        self._days = ceil((series.end - series.begin) / DAY)

    def expect(self, at: float, pattern: Pattern, *, since: float) -> float | None:
        """Arrivals at a time, known what has come until `since`."""
        usual = self._usual(at, pattern)
        return None if usual is None else usual * self._find_likeness(since, pattern)

    def _find_likeness(self, since: float, pattern: Pattern) -> float:
        """How much of the usual came in the last hours."""
        came = usual = 0.0
        for number in range(1, _LIKENESS_STEPS + 1):
            at = since - number * self._series.step
            value, expected = self._series.find(at), self._usual(at, pattern)
            if value is not None and expected is not None:
                came, usual = came + value, usual + expected
        return min(_MOST_LIKE, came / usual) if usual else 1.0

    def _find_usual(self, at: float, pattern: Pattern) -> float | None:
        local = datetime.fromtimestamp(at, self._zone)
        values = [value for value in map(self._smooth, self._list_like(local, pattern)) if value is not None]
        return median_low(values) if len(values) >= _LEARNT_DAYS else None

    def _list_like(self, local: datetime, pattern: Pattern) -> Iterable[float]:
        """The same time by the clock on earlier days, whatever clocks were changed in between."""
        step = _WEEK if pattern is Pattern.WEEKLY else 1
        for days in range(step, self._days + 1, step):
            day = local - timedelta(days=days)
            if pattern is not Pattern.KIND or (day.weekday() >= _SATURDAY) == (local.weekday() >= _SATURDAY):
                yield day.timestamp()

    def _smooth(self, at: float) -> float | None:
        """The average of a step and its neighbours: what one step has of its own is chance."""
        step = self._series.step
        values = [value for near in (at - step, at, at + step) if (value := self._series.find(near)) is not None]
        return sum(values) / len(values) if values else None
