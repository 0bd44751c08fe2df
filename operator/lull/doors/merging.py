"""One exposition of several processes' series: what is counted is summed, and never falls because a process ended.

All lines are written by the same code, so equal series are equal text: labels are not looked into.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

_CUMULATIVE: Final = frozenset({"counter", "histogram", "summary"})
_LEAST: Final = frozenset({"process_start_time_seconds", "process_max_fds"})
_MOST: Final = frozenset({"python_info"})


@dataclass(slots=True)
class Family:
    """The series of one name: their values by the text before them."""

    kind: str
    head: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)


Exposition = dict[str, Family]


class Processes(Collector):
    """What a supervisor counts itself."""

    def __init__(self) -> None:
        self.running = 0
        self.restarts = 0
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        return (
            GaugeMetricFamily(
                "lull_gateway_workers", "Processes that serve, where a gateway has several.", self.running
            ),
            CounterMetricFamily(
                "lull_gateway_worker_restarts", "Processes of this gateway that died and were replaced.", self.restarts
            ),
        )

    def expose(self) -> Exposition:
        return parse_exposition(generate_latest(self.registry).decode())


def parse_exposition(text: str) -> Exposition:
    """Read what a process of ours exposes in Prometheus' text format."""
    families: Exposition = {}
    family = Family("untyped")
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, rest = (line + " ").split(" ", 3)
            family = families.setdefault(name, Family("untyped"))
            family.head.append(line)
            if what == "TYPE":
                family.kind = rest.strip()
        elif line:
            series, _, value = line.rpartition(" ")
            family.values[series] = float(value)
    return families


def merge(expositions: Iterable[Exposition]) -> Exposition:
    """Sums, except of what describes a process: there the oldest or the smallest of all."""
    merged: Exposition = {}
    for exposition in expositions:
        for name, family in exposition.items():
            known = merged.setdefault(name, Family(family.kind, family.head))
            for series, value in family.values.items():
                before = known.values.get(series)
                known.values[series] = value if before is None else _join(name, before, value)
    return merged


def keep_counts(exposition: Exposition) -> Exposition:
    """What must still be counted when its process has ended: a sum that falls reads as a restart of all."""
    return {name: family for name, family in exposition.items() if family.kind in _CUMULATIVE}


def render_exposition(exposition: Exposition) -> str:
    lines: list[str] = []
    for family in exposition.values():
        lines += family.head
        lines += (f"{series} {_render(value)}" for series, value in family.values.items())
    return "\n".join(lines) + "\n"


def _join(name: str, one: float, other: float) -> float:
    if name in _LEAST:
        return min(one, other)
    return max(one, other) if name in _MOST else one + other


def _render(value: float) -> str:
    rendered: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return rendered
