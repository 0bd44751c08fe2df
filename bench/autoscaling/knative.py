"""Knative's autoscaler, the KPA.

The rules are those of `pkg/autoscaler` and `pkg/reconciler/autoscaling/kpa` in Knative Serving v0.42.2;
`reference/kpa` asks that code itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lull.core.simulation.fleet import View


@dataclass(slots=True)
class Buckets:
    """The average over a window of seconds, each with a bucket of its own."""

    size: int
    _values: deque[float] = field(default_factory=deque)
    _total: float = 0.0

    def record(self, value: float) -> None:
        """What the next second has."""
        if len(self._values) == self.size:
            self._total -= self._values.popleft()
        self._values.append(value)
        self._total += value

    def average(self) -> float:
        return floor(self._total / len(self._values) * 1e6) / 1e6


@dataclass(slots=True)
class Autoscaler:
    """One revision's decider: a stable window, a short one, and panic when the short one doubles."""

    target: float
    stable_window: float = 60.0
    panic_window: float = 6.0
    panic_threshold: float = 2.0
    max_up_rate: float = 1000.0
    max_down_rate: float = 2.0
    _stable: Buckets = field(init=False)
    _short: Buckets = field(init=False)
    _recorded_at: int | None = None
    _panics_since: float | None = None
    _most_in_panic: int = 0

    def __post_init__(self) -> None:
        self._stable, self._short = Buckets(ceil(self.stable_window)), Buckets(ceil(self.panic_window))

    def decide(self, now: float, ready: int, concurrency: float) -> int:
        """Pods to have."""
        if self._recorded_at is None and ready > 1:
            # It begins in panic, so that a restart takes nothing away.
            self._panics_since, self._most_in_panic = now, ready
        self._record(int(now), concurrency)
        stable, short = self._stable.average(), self._short.average()
        pods = max(1, ready)
        most, least = ceil(self.max_up_rate * pods), floor(pods / self.max_down_rate)
        wanted = min(max(ceil(stable / self.target), least), most)
        at_once = ceil(short / self.target)
        if at_once / pods >= self.panic_threshold:
            self._panics_since = now
        elif self._panics_since is not None and self._panics_since + self.stable_window < now:
            self._panics_since, self._most_in_panic = None, 0
        if self._panics_since is None:
            return wanted
        self._most_in_panic = max(self._most_in_panic, wanted, min(max(at_once, least), most))
        return self._most_in_panic

    def _record(self, second: int, concurrency: float) -> None:
        begin = second - 2 if self._recorded_at is None else max(self._recorded_at, second - self._stable.size)
        for _ in range(begin, second):
            self._stable.record(concurrency)
            self._short.record(concurrency)
        self._recorded_at = second


@dataclass(slots=True)
class Kpa:
    """On concurrency: what is in flight, and what the activator holds."""

    target: float = 70.0
    least: int = 0
    most: int = 8
    grace: float = 30.0
    tick: float = 2.0
    wakes: bool = True
    """The activator tells the autoscaler at once where nothing runs."""
    _decider: Autoscaler = field(init=False)
    _active_since: float | None = None
    _inactive_since: float | None = None

    def __post_init__(self) -> None:
        self._decider = Autoscaler(self.target)

    def scale(self, view: View) -> int:
        wanted = self._decider.decide(view.now, view.ready, view.held + view.in_flight)
        if not view.asked and view.held:
            # The activator's first report counts as it comes.
            wanted = max(wanted, 1)
        wanted = min(max(wanted, self.least), self.most)
        if not view.asked or not view.ready:
            self._active_since = self._inactive_since = None
        elif self._active_since is None:
            self._active_since = view.now
        if wanted:
            self._inactive_since = None
            return wanted
        return self._leave(view)

    def _leave(self, view: View) -> int:
        """`handleScaleToZero`: a window long active, then the grace period in which the activator takes over."""
        if self._active_since is None:
            # What loads is left alone.
            return view.asked
        if self._inactive_since is None:
            if view.now - self._active_since < self._decider.stable_window:
                return 1
            self._inactive_since = view.now
        return 0 if view.now - self._inactive_since >= self.grace else view.asked
