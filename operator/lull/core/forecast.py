"""`spec.scaling.forecast`: how many replicas earlier days ask for at this time of day.

What came at the same time on earlier days is expected again: on all of them, on those of the same kind (working days
and weekends), or on the same day of the week, whichever would have done best over the last day. Of these days the lower
median counts, scaled by how like them the last hours were, so that a holiday lowers what a usual Monday asks for.

Whether to believe it is asked of the history itself. The last week is forecast from what came before each moment of it,
and the forecast is used where it and the load of a cold start ago, the higher of the two, would have served that week
better than that load alone, and the last day no worse. A forecast is a floor: it adds replicas and takes none away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum, unique
from functools import lru_cache
from math import ceil
from statistics import median_low
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from lull.core.learning import COLD_START

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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
_DOUBTED_STEPS: Final = 6
"""Of an average load: what has to have come, before a day is thought to be unlike others."""
_MOST_LIKE: Final = 1.25
_SHORTAGE: Final = 4.0
"""A request that nothing was ready for weighs as much as so many that something was ready for in vain."""
_WEEK: Final = 7
_THURSDAY: Final = 3
"""The day of the week on which the Unix epoch begins; Monday is 0."""
_STEPS_PER_OFFSET: Final = 3
"""So seldom clocks are changed: on quarters of an hour."""
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
    """What to expect from `wall` on, if what there is of the past would have foretold the last days.

    `ahead` is the time that a start takes.
    """
    try:
        zone = UTC if timezone == "UTC" else ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return Unusable(f"{timezone!r} is no time zone")
    past = _Past(series, wall, zone)
    if past.count_known(past.per_day) < _KNOWN_SHARE * past.per_day:
        return Unusable("Prometheus knows too little of the last day")
    lag = max(1, ceil(min(ahead, _LONGEST_AHEAD) / series.step))
    tried = [(trial, pattern) for pattern in Pattern if (trial := past.try_out(pattern, lag)) is not None]
    if not tried:
        return Unusable(f"it takes {_LEARNT_DAYS} days to learn from and one to try it on, without long gaps")
    trial, pattern = max(tried, key=lambda one: one[0].gain)
    if trial.gain <= 0 or trial.gain_of_day < 0:
        span = "the last days" if trial.gain <= 0 else "the last day"
        return Unusable(f"over {span} it would have been no better than to go by the load of the moment")
    return Forecast(past.end, series.step, trial.rates, pattern)


def find_ahead(
    forecast: Forecast, knowledge: Knowledge | None, *, wall: float, cold_start: float | None, carried: float | None
) -> Ahead | None:
    """Replicas for what is expected by the time that one which is asked for now is ready.

    `carried` is how many requests a second one replica carries by its target, where nothing was learnt of it.
    """
    rate = forecast.find_rate(wall, ahead=COLD_START if cold_start is None else cold_start)
    capacity = knowledge.carried if knowledge is not None and knowledge.is_known else carried
    if rate is None or not capacity:
        return None
    return Ahead(ceil(rate / capacity - _TOLERANCE), f"{rate:.3g} requests/s are usual at this time")


def _weigh(came: float, ready_for: float) -> float:
    return _SHORTAGE * (came - ready_for) if came > ready_for else ready_for - came


@dataclass(frozen=True, slots=True)
class _Trial:
    """What came of forecasting the last week, or as much of it as could have been foretold."""

    gain: float
    """What it would have saved, as requests a second that something was ready for in vain."""
    gain_of_day: float
    """Of the last day alone."""
    rates: tuple[float, ...]
    """What it says of the steps to come."""


class _Past:
    """Steps up to a moment, by number; those to come have numbers too."""

    def __init__(self, series: Series, wall: float, zone: tzinfo) -> None:
        self.per_day: Final = round(DAY / series.step)
        self._step = series.step
        self._begin = series.begin
        self._zone = zone
        count = int((wall - series.begin) // series.step)
        self._values = [*series.values[:count], *[None] * (count - len(series.values))]
        self._smooth = [_average(self._values[max(0, at - 1) : at + 2]) for at in range(len(self._values))]
        self._offset = lru_cache(maxsize=None)(self._find_offset)

    @property
    def end(self) -> float:
        return self._begin + len(self._values) * self._step

    def count_known(self, steps: int) -> int:
        """How many of the last steps somebody counted."""
        return sum(value is not None for value in self._values[-steps:])

    def try_out(self, pattern: Pattern, lag: int) -> _Trial | None:
        """Forecast each step of the last week from what came `lag` steps before; None where too little is known."""
        values, now = self._values, len(self._values)
        until = now + _PLANNED + lag
        first = max(0, now - _WEEK * self.per_day - lag - _LIKENESS_STEPS)
        usual = [self._find_usual(at, pattern) for at in range(first, until)]
        if any(rate is None for rate in usual[now - first :]):
            return None
        doubt = _DOUBTED_STEPS * (_average(values) or 0.0)
        likeness = list(_follow_likeness(values[first:], usual[: now - first], doubt))
        gains = []
        for at in range(first + lag, now):
            came, before, told = values[at], values[at - lag], usual[at - first]
            if came is not None and before is not None and told is not None:
                ready_for = max(before, told * likeness[at - lag - first])
                gains.append((at, _weigh(came, before) - _weigh(came, ready_for)))
        if len(gains) < _KNOWN_SHARE * self.per_day:
            return None
        return _Trial(
            gain=sum(gain for _, gain in gains),
            gain_of_day=sum(gain for at, gain in gains if at >= now - self.per_day),
            rates=tuple((rate or 0.0) * likeness[-1] for rate in usual[now - first :]),
        )

    def _find_usual(self, at: int, pattern: Pattern) -> float | None:
        """What came at the same time by the clock of earlier days, whatever clocks were changed in between."""
        values = []
        step = _WEEK if pattern is Pattern.WEEKLY else 1
        kind = self._is_weekend(at)
        for days in range(step, len(self._values) // self.per_day + 1, step):
            near = at - days * self.per_day
            before = near + round(
                (self._offset(at // _STEPS_PER_OFFSET) - self._offset(near // _STEPS_PER_OFFSET)) / self._step
            )
            if not 0 <= before < len(self._values) or (pattern is Pattern.KIND and self._is_weekend(before) != kind):
                continue
            if (value := self._smooth[before]) is not None:
                values.append(value)
        return median_low(values) if len(values) >= _LEARNT_DAYS else None

    def _is_weekend(self, at: int) -> bool:
        local = self._begin + at * self._step + self._offset(at // _STEPS_PER_OFFSET)
        return (int(local // DAY) + _THURSDAY) % _WEEK >= _SATURDAY

    def _find_offset(self, part: int) -> float:
        """Seconds that clocks are before UTC."""
        offset = datetime.fromtimestamp(self._begin + part * _STEPS_PER_OFFSET * self._step, self._zone).utcoffset()
        return 0.0 if offset is None else offset.total_seconds()


def _average(values: Iterable[float | None]) -> float | None:
    """Of a step and its neighbours: what one step has of its own is chance."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _follow_likeness(values: Iterable[float | None], usual: Iterable[float | None], doubt: float) -> Iterator[float]:
    """After each step, how much of what is usual came in the last hours; little that came tells little."""
    last: deque[tuple[float, float]] = deque(maxlen=_LIKENESS_STEPS)
    for value, expected in zip(values, usual, strict=True):
        last.append((0.0, 0.0) if value is None or expected is None else (value, expected))
        came, sum_expected = map(sum, zip(*last, strict=True))
        yield min(_MOST_LIKE, (came + doubt) / (sum_expected + doubt)) if doubt else 1.0
