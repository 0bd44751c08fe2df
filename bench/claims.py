"""A claim: a figure, its limit, and whether it was kept."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Claim:
    """One measured figure; `limit` is the most that it may be, or the least, where anything was promised."""

    name: str
    value: float
    limit: float | None
    unit: str
    samples: int
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the figure is within its limit."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile: with 30 values, the 99th is the largest."""
    ranked = sorted(values)
    rank = max(1, -(-len(ranked) * percent // 100))
    return ranked[int(rank) - 1]


def print_table(claims: Sequence[Claim]) -> None:
    """The figures for people."""
    table = Table("claim", "measured", "limit", "samples", "kept", box=None, pad_edge=False)
    for claim in claims:
        table.add_row(
            claim.name,
            _render(claim.value, claim.unit),
            "-" if claim.limit is None else f"{'≥' if claim.at_least else '≤'} {_render(claim.limit, claim.unit)}",
            str(claim.samples),
            "yes" if claim.kept else "NO",
        )
    Console(width=140).print(table)


def as_json(claims: Sequence[Claim], *, at: str, load: float) -> dict[str, Any]:
    """The figures for programs, with the machine that they were read on and what else it had to do before."""
    return {
        "at": at,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "python": platform.python_version(),
            "load": round(load, 1),
        },
        "claims": [
            {
                "name": claim.name,
                "value": round(claim.value, 3),
                "limit": claim.limit,
                "at_least": claim.at_least,
                "unit": claim.unit,
                "samples": claim.samples,
                "kept": claim.kept,
            }
            for claim in claims
        ],
    }


def _render(value: float, unit: str) -> str:
    return f"{value:,.2f} {unit}" if abs(value) < 10 else f"{value:,.1f} {unit}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123  a kernel file, not a path of ours
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        return platform.processor()
    return f"{len(names)} x {names[0]}" if names else platform.processor()
