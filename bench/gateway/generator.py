"""The load generator: one run, and what it reports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.gateway.machine import OTHER_CORES, run_pinned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.gateway.contenders import Contender


@dataclass(frozen=True, slots=True)
class Reading:
    """One run; times in milliseconds, CPU of the contender in microseconds."""

    requests: float
    """A second."""
    events: float
    """A second."""
    p50: float
    p99: float
    gap: float
    """The 99th percentile of the time between two events of a stream."""
    cpu_per_request: float
    cpu_per_event: float
    open: int
    """Connections that are open in the end."""
    errors: Mapping[str, int]
    answered: int
    """With the warm-up."""
    slowest: float


def ask(
    load: str, contender: Contender, options: Mapping[str, float | str], *, cores: Sequence[int] = OTHER_CORES
) -> Reading:
    """Let the load generator ask a contender; its options are the program's."""
    target = {"target": f"127.0.0.1:{contender.port}", "key": contender.key, "model": contender.model}
    arguments = [f"-{name}={value}" for name, value in {**target, **options}.items()]
    before = contender.process.read_seconds()
    report: dict[str, Any] = json.loads(run_pinned([load, *arguments], cores=cores))
    spent = (contender.process.read_seconds() - before) * 1e6
    return Reading(
        requests=report["requests"] / report["seconds"],
        events=report["events"] / report["seconds"],
        p50=report["latency"]["p50"],
        p99=report["latency"]["p99"],
        gap=report["gap"]["p99"],
        cpu_per_request=spent / max(1, report["answered"]),
        cpu_per_event=spent / max(1, report["received"]),
        open=report["open"],
        errors=report["errors"],
        answered=report["answered"],
        slowest=report["latency"]["max"],
    )
