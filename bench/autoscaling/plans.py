"""Scalers that do not look: so many replicas all the time, and the clairvoyant, who knows what will be asked."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from lull.core.simulation.replica import Load as Steady
from lull.core.simulation.replica import highest_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.autoscaling.traces import Load
    from lull.core.simulation.fleet import Request, View


@dataclass(frozen=True, slots=True)
class Static:
    replicas: int
    tick: float = 3600.0
    wakes: bool = False

    def scale(self, view: View) -> int:
        del view
        return self.replicas


@dataclass(frozen=True, slots=True)
class Planned:
    """A schedule: from each time on, so many replicas."""

    times: tuple[float, ...]
    counts: tuple[int, ...]
    tick: float
    wakes: bool = False

    def scale(self, view: View) -> int:
        place = bisect_right(self.times, view.now)
        return self.counts[place - 1] if place else 0


@dataclass(frozen=True, slots=True)
class Needed:
    """Replicas that are needed in each window of so many seconds."""

    window: float
    counts: tuple[int, ...]

    def take_away(self, part: int, *, of: int) -> Needed:
        """One replica less in one of so many equal parts."""
        begin, end = len(self.counts) * part // of, len(self.counts) * (part + 1) // of
        less = (max(0, count - 1) for count in self.counts[begin:end])
        return Needed(self.window, (*self.counts[:begin], *less, *self.counts[end:]))


def measure_work(load: Load, requests: Sequence[Request], window: float) -> list[float]:
    """Replicas that would be busy in each window, if work could be divided at will.

    A request's work is its share of the rate that a replica sustains within the SLO with requests of the trace's
    average lengths: by input tokens as far as a replica reads, by output tokens as far as it writes.
    """
    mean_in = sum(request.input_tokens for request in requests) / len(requests)
    mean_out = sum(request.output_tokens for request in requests) / len(requests)
    steady = Steady(input_tokens=mean_in, output_tokens=mean_out)
    rate = highest_rate(load.replica, steady, ttft=load.slo.ttft, tpot=load.slo.tpot)
    read = load.replica.prefill_seconds(mean_in) * rate
    busy = [0.0] * (int(requests[-1].at // window) + 1)
    for request in requests:
        share = read * request.input_tokens / mean_in + (1 - read) * request.output_tokens / mean_out
        busy[int(request.at // window)] += share / rate / window
    return busy


def count_needed(busy: Sequence[float], *, fill: float, most: int, is_late: bool) -> list[int]:
    """Replicas for each window, if each may be filled so far.

    What arrives late in a window may be served in the next: then that one has as many.
    """
    needed = [min(ceil(work / fill - 1e-9), most) for work in busy]
    return [max(pair) for pair in zip(needed, [0, *needed[:-1]], strict=True)] if is_late else needed


def build_plan(plan: Needed, *, cold_start: float) -> Planned:
    """The cheapest schedule that has as many replicas ready as each window needs.

    A replica for a window is asked for a cold start before; one that would be away for less than a cold start stays.
    """
    window, needed = plan.window, plan.counts
    changes: dict[float, int] = {}
    for level in range(1, max(needed) + 1):
        for begin, end in _join([place for place, count in enumerate(needed) if count >= level], window, cold_start):
            changes[begin] = changes.get(begin, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    times, counts, count = [], [], 0
    for at in sorted(changes):
        count += changes[at]
        times.append(at)
        counts.append(count)
    return Planned(tuple(times), tuple(counts), tick=min(window, 10.0))


def _join(places: Iterable[int], window: float, cold_start: float) -> list[tuple[float, float]]:
    """From asked for to let go."""
    spans: deque[list[float]] = deque()
    for place in places:
        begin, end = place * window - cold_start, (place + 1) * window
        # What is there when the trace begins needs no cold start.
        begin = max(0.0, begin)
        if spans and begin <= spans[-1][1]:
            spans[-1][1] = end
        else:
            spans.append([begin, end])
    return [(begin, end) for begin, end in spans]
