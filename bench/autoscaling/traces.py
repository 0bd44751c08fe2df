"""What is asked of the fleets: published traces, published rates made into requests, and two loads made up."""

from __future__ import annotations

import csv
import gzip
import math
import random
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lull.core.simulation.fleet import Request, Slo
from lull.core.simulation.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lull.core.simulation.replica import ReplicaModel

FOLDER: Final = Path(__file__).parents[1] / "data"
MOONCAKE_TICK: Final = 3.0
"""Seconds between the times that Mooncake's trace knows; within them requests are spread at random."""
BUSY: Final = 0.7
"""Share of its capacity that a fleet uses, where it matters how a sum of clients' arrivals varies."""
MOST_VARIATION: Final = 3.0
QUIET_SHARE: Final = 0.3
"""Of a workload's windows, how many count as night: their highest rate is taken off all rates."""
MOST: Final = 20
"""Replicas that anybody may have: twice what the busiest minutes need."""
PACE: Final = 6.0
"""How much faster days go by here than they did: one takes four hours."""
DAY: Final = 86400.0
RATE_WINDOW: Final = 600.0


@dataclass(frozen=True, slots=True)
class Load:
    """A trace, and the service that it is asked of: the same for all contenders."""

    name: str
    engine: str
    gpus: int
    slo: Slo
    most: int
    """Replicas that anybody may have."""
    read: Callable[[], tuple[Request, ...]]

    @property
    def replica(self) -> ReplicaModel:
        return PRESETS[self.engine]


@cache
def read_azure() -> tuple[Request, ...]:
    """An hour of Azure's conversation service, of the 11th of November 2023."""
    return tuple(_read_requests("azure2023_conv.csv.gz"))


@cache
def read_mooncake() -> tuple[Request, ...]:
    """An hour of Kimi's; what engines have read before is not counted as such: a fleet that changes has cold caches."""
    noise = random.Random(1)
    requests = _read_requests("mooncake_fast25_conversation_prefix.csv.gz")
    return tuple(sorted(request._replace(at=request.at + noise.random() * MOONCAKE_TICK) for request in requests))


@cache
def read_servegen(name: str, *, days: int, pace: float, peak: float) -> tuple[Request, ...]:
    """Days of a workload of ServeGen's, `pace` times faster, so that `peak` requests a second are the most of a window.

    Of the ten-minute rates the nights are taken off, which leaves hours without a request. Times between arrivals vary
    as those of a sum of the window's clients; lengths are those of Azure's conversations, drawn at random.
    """
    with gzip.open(FOLDER / f"servegen_rate_{name}.csv.gz", "rt") as lines:
        rows = [
            (
                float(row["rate_rps"]),
                superpose(float(row["rate_weighted_client_cv"]), int(row["active_clients"])),
            )
            for row in csv.DictReader(lines)
        ]
    # Windows without a single client are holes in what was published.
    windows = [row for row in rows if row[0] > 0][: round(days * DAY / RATE_WINDOW)]
    ordered = sorted(rate for rate, _ in windows)
    quiet = ordered[round(QUIET_SHARE * (len(ordered) - 1))]
    factor = peak / (ordered[-1] - quiet)
    rates = [(max(0.0, rate - quiet) * factor, variation) for rate, variation in windows]
    return arrive(rates, RATE_WINDOW / pace, seed=len(name))


@cache
def make_square(*, low: float, high: float, seconds: float, count: int) -> tuple[Request, ...]:
    """A load that jumps up and down, so many times."""
    return arrive([(low, 1.0), (high, 1.0)] * count + [(low, 1.0)], seconds, seed=3)


@cache
def make_llmd() -> tuple[Request, ...]:
    """The profile that llm-d's SLO-aware loop was published with: 4,000 tokens in, 1,000 out."""
    stages = ((2, 330), (4, 360), (6, 360), (8, 360), (10, 360), (4, 360), (1, 300))
    requests, begin = [], 0.0
    chance = random.Random(5)
    for rate, seconds in stages:
        requests += [Request(at, 4000, 1000) for at in spread(rate, 1.0, begin, begin + seconds, chance)]
        begin += seconds
    return tuple(requests)


LLMD_SECONDS: Final = 2430.0


def list_loads(*, is_quick: bool) -> list[Load]:
    """All of them; when it has to be quick, with less of each."""
    slow, slo = "llama-3.1-8b-l4", Slo(ttft=5.0, tpot=0.2)
    hour = 1800.0 if is_quick else 3600.0
    days = 1 if is_quick else 2
    seconds, count = (600.0, 1) if is_quick else (1200.0, 2)
    prompts = Slo(ttft=30.0, tpot=0.2)
    return [
        Load("Azure conversation", slow, 1, slo, MOST, partial(_cut, read_azure, hour)),
        Load(
            "Mooncake conversation", "llama-3.3-70b-fp8-h100-tp2", 2, prompts, MOST, partial(_cut, read_mooncake, hour)
        ),
        *(
            Load(f"ServeGen {name}", slow, 1, slo, MOST, partial(read_servegen, name, days=days, pace=PACE, peak=8.0))
            for name in ("m-mid", "m-small")
        ),
        Load("square burst", slow, 1, slo, MOST, partial(make_square, low=0.8, high=8.0, seconds=seconds, count=count)),
    ]


def _read_requests(name: str) -> Iterator[Request]:
    with gzip.open(FOLDER / name, "rt") as lines:
        for row in csv.DictReader(lines):
            read, written = int(row["input_tokens"]), int(row["output_tokens"])
            yield Request(float(row["timestamp_s"]), max(1, read), max(1, written))


def _cut(read: Callable[[], tuple[Request, ...]], seconds: float) -> tuple[Request, ...]:
    return tuple(request for request in read() if request.at < seconds)


def arrive(rates: Sequence[tuple[float, float]], window: float, seed: int) -> tuple[Request, ...]:
    chance, lengths = random.Random(seed), read_azure()
    times = [
        at
        for number, (rate, variation) in enumerate(rates)
        for at in spread(rate, variation, number * window, (number + 1) * window, chance)
    ]
    return tuple(chance.choice(lengths)._replace(at=at) for at in times)


def superpose(variation: float, clients: int) -> float:
    """Coefficient of variation of a sum of so many clients' arrivals, by Whitt's approximation."""
    weight = 1 / (1 + 4 * (1 - BUSY) ** 2 * max(0, clients - 1))
    return min(math.sqrt(weight * variation**2 + 1 - weight), MOST_VARIATION)


def spread(rate: float, variation: float, begin: float, end: float, chance: random.Random) -> Iterator[float]:
    """Times between arrivals from a gamma distribution: Poisson's where the variation is 1."""
    if rate <= 0:
        return
    shape = 1 / max(variation, 0.1) ** 2
    at = begin + chance.gammavariate(shape, 1 / (rate * shape)) * chance.random()
    while at < end:
        yield at
        at += max(1e-6, chance.gammavariate(shape, 1 / (rate * shape)))
