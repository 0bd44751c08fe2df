"""What looking ahead by history is worth: a day that nobody has seen, with `scaling.forecast` and without it.

Two loads with days and nights at their own pace: ServeGen's m-small, its seventh day after six to learn from, and days
made up, with an hour's rise in the morning and each day of another height. Everything else is Lull's default.
"""

from __future__ import annotations

import csv
import gzip
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from bench import processes
from bench.autoscaling.contest import build_lull
from bench.autoscaling.traces import FOLDER, QUIET_SHARE, RATE_WINDOW, arrive, spread, superpose
from bench.claims import Claim
from lull.core.forecast import DAY, STEP, Series
from lull.core.simulation.fleet import MONDAY, Options, Slo, simulate
from lull.core.simulation.foresight import Past
from lull.core.simulation.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lull.core.simulation.outcome import Outcome

ENGINE: Final = "llama-3.1-8b-l4"
SLO: Final = Slo(ttft=5.0, tpot=0.2)
MOST: Final = 20
COLD_STARTS: Final = (100.0, 300.0)
SECONDS: Final = 15.0
"""That a request takes in an engine, as history says before anything is learnt."""
_SEED: Final = 1
_FEW_HOURS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Days:
    """Windows of equal length from a Monday on: requests a second, and how their gaps vary."""

    name: str
    window: float
    rates: tuple[tuple[float, float], ...]
    held_out: int
    """The day that is played; those before it are history."""


@dataclass(frozen=True, slots=True)
class Round:
    load: str
    cold_start: float
    is_ahead: bool
    hours: float
    """Of the day."""


def measure() -> list[Claim]:
    """Ten minutes of one core."""
    return _measure(24.0)


def measure_quick() -> list[Claim]:
    """Until ten o'clock, when load has risen."""
    return _measure(_FEW_HOURS)


def read_servegen() -> Days:
    """Night is what ServeGen's quietest windows have in common; windows without clients are holes, and are left empty."""
    with gzip.open(FOLDER / "servegen_rate_m-small.csv.gz", "rt") as lines:
        rows = [
            (float(row["rate_rps"]), superpose(float(row["rate_weighted_client_cv"]), int(row["active_clients"])))
            for row in csv.DictReader(lines)
        ]
    ordered = sorted(rate for rate, _ in rows if rate > 0)
    quiet = ordered[round(QUIET_SHARE * (len(ordered) - 1))]
    factor = 8.0 / (ordered[-1] - quiet)
    rates = tuple((max(0.0, rate - quiet) * factor, variation) for rate, variation in rows)
    return Days("ServeGen m-small", RATE_WINDOW, rates, held_out=6)


def make_office() -> Days:
    """From 7 to 21 o'clock, less at noon."""
    chance = random.Random(4)
    heights = [0.85 + 0.3 * chance.random() for _ in range(11)]
    rates = tuple(
        (2.0 * height * _find_share(minute / 60), 1.2) for height in heights for minute in range(round(DAY / 60))
    )
    return Days("office hours", 60.0, rates, held_out=10)


def play(one: Round) -> Outcome:
    """One day."""
    days = LOADS[one.load]()
    per_day = round(DAY / days.window)
    before, day = days.rates[: days.held_out * per_day], days.rates[days.held_out * per_day :]
    requests = arrive(day[: round(per_day * one.hours / 24)], days.window, seed=9)
    past = Past(_count(before, days.window), SECONDS)
    scaler = build_lull(MOST, slo=SLO, past=past, **({"forecast": {}} if one.is_ahead else {}))
    options = Options(
        cold_start=one.cold_start,
        slo=SLO,
        max_replicas=MOST,
        until=requests[-1].at,
        begins=MONDAY + days.held_out * DAY,
    )
    return simulate(requests, scaler, PRESETS[ENGINE], options, _SEED)


LOADS: Final = {"office hours": make_office, "ServeGen m-small": read_servegen}


def _find_share(hour: float) -> float:
    return max(0.0, min(1.0, hour - 7, (21 - hour) / 2)) * (1 - 0.25 * max(0.0, 1 - abs(hour - 12.5)))


def _count(rates: Sequence[tuple[float, float]], window: float) -> Series:
    """What Prometheus would have counted."""
    chance = random.Random(2)
    counts = [0] * round(len(rates) * window / STEP)
    for number, (rate, variation) in enumerate(rates):
        for at in spread(rate, variation, number * window, (number + 1) * window, chance):
            counts[int(at // STEP)] += 1
    return Series(MONDAY, STEP, tuple(count / STEP for count in counts))


def _measure(hours: float) -> list[Claim]:
    rounds = [
        Round(load, cold, is_ahead, hours) for load in LOADS for cold in COLD_STARTS for is_ahead in (False, True)
    ]
    with ProcessPoolExecutor(processes.count()) as pool:
        played = dict(zip(rounds, pool.map(play, rounds), strict=True))
    table = Table("load", "cold start", "forecast", "in SLO", "GPU-hours", "starts", box=None)
    for one, outcome in played.items():
        row = (one.load, f"{one.cold_start:g} s", "yes" if one.is_ahead else "no")
        table.add_row(*row, f"{outcome.attainment:.2%}", f"{outcome.gpu_hours:.2f}", str(outcome.starts))
    Console(width=120, stderr=True).print(table)
    return [claim for one in rounds if one.is_ahead for claim in _claim(one, played)]


def _claim(one: Round, played: dict[Round, Outcome]) -> list[Claim]:
    ahead, alone = played[one], played[Round(one.load, one.cold_start, False, one.hours)]
    subject = f"{one.load}, cold start {one.cold_start:g} s, forecast"
    missed, usual = 1 - ahead.attainment, 1 - alone.attainment
    return [
        Claim(f"{subject}: within the SLO", 100 * ahead.attainment, None, "%", ahead.requests),
        Claim(f"{subject}: misses, of those without", 100 * missed / max(usual, 1e-9), None, "%", ahead.requests),
        Claim(f"{subject}: GPU-hours, of those without", 100 * ahead.gpu_hours / alone.gpu_hours, None, "%", 1),
    ]
