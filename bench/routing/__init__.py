"""How well requests find the engine that has read their beginning, and what that costs the slowest of them.

Two traces are replayed against simulated engines (`engine.py` has the model and its constants), through gateways that
do not talk to each other, by the rule that the gateway runs (`lull.core.routing`) and by those of others.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from bench.claims import Claim
from bench.routing.engine import PROMPT_RATE, ROOM, ROOM_WITH_OFFLOAD
from bench.routing.replay import Outcome, replay
from bench.routing.rules import BoundedHash, CacheAware, Lull, Oracle, Random, RoundRobin
from bench.routing.trace import CONVERSATION, PLAIN, read_trace, rescale
from e2e.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.routing.rules import Rule
    from bench.routing.trace import Arrival

LEAST: Final = "least load"
ORACLE: Final = "oracle"
LULL: Final = "lull"
SILENT: Final = "lull, engines silent"
RULES: Final[dict[str, Callable[[int, int], Rule]]] = {
    "round robin": RoundRobin,
    "random": Random,
    LEAST: partial(Lull, affinity=False),
    "CHWBL, first block": partial(BoundedHash, block=0),
    "CHWBL, second block": partial(BoundedHash, block=1),
    "vllm-router cache_aware": CacheAware,
    ORACLE: Oracle,
    SILENT: partial(Lull, affinity=True, feedback=False),
    LULL: partial(Lull, affinity=True),
}
OF_ONE_GATEWAY: Final = frozenset({"round robin", "random", ORACLE})
"""How many gateways there are is nothing to them."""
LOADS: Final = {"light": 0.3, "medium": 0.6, "near saturation": 0.8}
"""Prompt tokens that arrive, over what all engines could read if they had nothing cached and nothing to write."""
ROOMS: Final = {"GPU only": ROOM, "with KV offload": ROOM_WITH_OFFLOAD}
GATEWAYS: Final = (1, 2, 4)
DEALS: Final = (2, 3, 4)
"""Ways in which chance deals requests to several gateways; figures are means over these."""
MOST_MISSED: Final = 10.0
MOST_TAIL: Final = 105.0
"""Least load's own p99 differs by 4 % from one dealing to another."""


@dataclass(frozen=True, slots=True)
class Case:
    """One replay."""

    trace: str
    room: str
    load: str
    engines: int
    rule: str
    gateways: int
    count: int | None = None
    """Requests of the trace that are replayed; all of them without a number."""


def measure() -> list[Claim]:
    """Eight engines."""
    return measure_sizes((8,))


def measure_full() -> list[Claim]:
    """Four, eight and sixteen."""
    return measure_sizes((4, 8, 16))


def measure_sizes(sizes: Sequence[int]) -> list[Claim]:
    """All rules, loads and memories, with pools of so many engines."""
    cases = [
        Case(CONVERSATION, room, load, engines, rule, gateways)
        for engines in sizes
        for room in ROOMS
        for load in LOADS
        for rule in RULES
        for gateways in GATEWAYS
        if gateways == 1 or rule not in OF_ONE_GATEWAY
    ]
    cases += [
        Case(PLAIN, "GPU only", load, engines, rule, gateways)
        for engines in sizes
        for load in LOADS
        for rule in (LEAST, LULL)
        for gateways in GATEWAYS
    ]
    say(f"  {len(cases)} replays")
    with ProcessPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
        outcomes = dict(zip(cases, pool.map(run, cases), strict=True))
    show(outcomes)
    return claim(outcomes)


def run(case: Case) -> Outcome:
    """Replay one case; with several gateways more than once, for the mean."""
    rate = LOADS[case.load] * case.engines * PROMPT_RATE
    arrivals = rescale(_read(case.trace, case.count), rate=rate)
    outcomes = [
        replay(
            arrivals,
            RULES[case.rule],
            engines=case.engines,
            gateways=case.gateways,
            room=ROOMS[case.room],
            deal=deal,
        )
        for deal in (DEALS if case.gateways > 1 else DEALS[:1])
    ]
    return Outcome(*(sum(getattr(one, field.name) for one in outcomes) / len(outcomes) for field in fields(Outcome)))


def claim(outcomes: dict[Case, Outcome]) -> list[Claim]:
    """What is promised of Lull's rule: hits as the oracle's, less a tenth; a tail not above least load's."""
    claims = []
    for case, outcome in outcomes.items():
        if case.rule != LULL:
            continue
        subject = f"{case.trace.split('_')[0]}, {case.engines} engines, {case.room}, {case.load}"
        subject += f", {case.gateways} gateway{'s' if case.gateways > 1 else ''}"
        least = outcomes[_with(case, rule=LEAST)]
        samples = len(_read(case.trace, case.count))
        if case.trace == CONVERSATION:
            oracle = outcomes[_with(case, rule=ORACLE, gateways=1)]
            missed = 100 * (1 - outcome.hit_rate / oracle.hit_rate)
            # Gateways that do not talk cannot know what one that sees all requests knows.
            limit = MOST_MISSED if case.gateways == 1 else None
            claims.append(Claim(f"{subject}: hits missed of the oracle's", missed, limit, "%", samples))
        claims.append(
            Claim(f"{subject}: p99 TTFT, of least load's", 100 * outcome.p99 / least.p99, MOST_TAIL, "%", samples)
        )
    return claims


def show(outcomes: dict[Case, Outcome]) -> None:
    """Every figure, for people."""
    table = Table(
        "trace", "engines", "memory", "load", "rule", "gateways", "hits", "mean", "p50", "p99", "most/mean", box=None
    )
    for case, outcome in outcomes.items():
        table.add_row(
            case.trace.split("_")[0],
            str(case.engines),
            case.room,
            case.load,
            case.rule,
            str(case.gateways),
            f"{outcome.hit_rate:.1%}",
            f"{outcome.mean:.2f} s",
            f"{outcome.p50:.2f} s",
            f"{outcome.p99:.2f} s",
            f"{outcome.imbalance:.2f}",
        )
    Console(width=140, stderr=True).print(table)


def _with(case: Case, *, rule: str, gateways: int | None = None) -> Case:
    return Case(case.trace, case.room, case.load, case.engines, rule, gateways or case.gateways, case.count)


@cache
def _read(trace: str, count: int | None) -> list[Arrival]:
    return read_trace(trace, count=count)
