"""What a picture of simulations shows, apart from how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto, unique
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Final

from lull.api.quantities import render_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lull.core.simulation.outcome import Outcome, Sample

INK: Final = "#1f2933"
QUIET: Final = "#9aa5b1"
REPLICAS: Final = "#2563eb"
_READY: Final = "#93b7f7"
_STARTING: Final = "#dbe8fd"
_HELD: Final = "#d97706"
_RUNNING: Final = "#059669"
_MISSED: Final = "#dc2626"
_MOST_POINTS: Final = 500
_STEPS: Final = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000),
)
_MOST_TICKS: Final = 10


@unique
class Mark(Enum):
    AREA = auto()
    LINE = auto()
    STRIP = auto()
    """Along the bottom, the more visible the closer its values come to 1."""


@dataclass(frozen=True, slots=True)
class Series:
    label: str
    color: str
    mark: Mark
    values: tuple[float, ...]
    """From each of the panel's times on to the next."""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    times: tuple[float, ...]
    left: tuple[Series, ...]
    right: tuple[Series, ...]
    left_name: str
    right_name: str
    strip: Series | None = None


def build_panels(outcomes: Mapping[str, Outcome]) -> tuple[Panel, ...]:
    """One panel for the load, which is the same for all, and one for each outcome."""
    first = next(iter(outcomes.values()))
    return (_show_load(first), *(_show(name, outcome) for name, outcome in outcomes.items()))


def find_ticks(seconds: float) -> tuple[tuple[float, str], ...]:
    """Round times from 0 on, with what to write below them."""
    step = next((step for step in _STEPS if seconds / step <= _MOST_TICKS), _STEPS[-1])
    return tuple((float(at), render_duration(at)) for at in range(0, int(seconds) + 1, step))


def find_levels(most: float) -> tuple[float, ...]:
    """Round numbers from 0 up to at least `most`, four steps or fewer."""
    scale = 1
    while True:
        for factor in (1, 2, 5):
            step = factor * scale
            if most <= 4 * step:
                return tuple(float(step * level) for level in range(max(1, ceil(most / step)) + 1))
        scale *= 10


def _show_load(outcome: Outcome) -> Panel:
    bins = _bin(outcome.samples)
    per_second = (
        *((last.arrived - first.arrived) / max(last.at - first.at, 1e-9) for first, last in pairwise(bins)),
        0.0,
    )
    arriving = Series("requests arriving per second", QUIET, Mark.AREA, per_second)
    return Panel(
        title=f"{outcome.requests:,} requests in {render_duration(outcome.seconds)}",
        times=tuple(sample.at for sample in bins),
        left=(arriving,),
        right=(),
        left_name="requests/s",
        right_name="",
    )


def _show(name: str, outcome: Outcome) -> Panel:
    bins = _bin(outcome.samples)
    met, missed = _differ(bins, lambda sample: sample.met), _differ(bins, lambda sample: sample.missed)
    shares = tuple(bad / max(good + bad, 1) for good, bad in zip(met, missed, strict=True))
    return Panel(
        title=f"{name}: {outcome.attainment:.2%} within the SLO, {outcome.gpu_hours:.1f} GPU-hours, "
        f"{outcome.mean_replicas:.2f} replicas on average, {outcome.starts} cold starts",
        times=tuple(sample.at for sample in bins),
        left=(
            Series(
                "replicas starting or leaving",
                _STARTING,
                Mark.AREA,
                tuple(float(sample.asked + sample.leaving) for sample in bins),
            ),
            Series("replicas ready", _READY, Mark.AREA, tuple(float(sample.ready) for sample in bins)),
        ),
        right=(
            Series("held or waiting", _HELD, Mark.LINE, tuple(float(sample.held + sample.waiting) for sample in bins)),
            Series("running", _RUNNING, Mark.LINE, tuple(float(sample.running) for sample in bins)),
        ),
        left_name="replicas",
        right_name="requests",
        strip=Series("SLO missed", _MISSED, Mark.STRIP, shares),
    )


def _bin(samples: Sequence[Sample]) -> list[Sample]:
    """At most so many samples as can be told apart in a picture; each is the one with most requests of its share."""
    size = ceil(len(samples) / _MOST_POINTS)
    shares = (samples[at : at + size] for at in range(0, len(samples), size))
    return [max(share, key=lambda sample: sample.held + sample.waiting + sample.running) for share in shares]


def _differ(samples: Sequence[Sample], count: Callable[[Sample], int]) -> tuple[float, ...]:
    """By how much a count grows from each sample to the next; at the last one not at all."""
    counts = [count(sample) for sample in samples]
    return (*(float(later - earlier) for earlier, later in pairwise(counts)), 0.0)
