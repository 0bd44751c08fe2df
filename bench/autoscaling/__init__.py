"""How much of the SLO each autoscaler keeps, and for how many GPU-hours, on the same traces and simulated engines.

All contenders see the same of the same fleet. Others are played as their documentation sets them up, and swept for
their cheapest setting that keeps the SLO for 99 % of the requests; Lull has one setting, its default, for everything.
The clairvoyant knows the trace and orders ahead. `reference/` asks Kubernetes and Knative themselves.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from bench import processes
from bench.autoscaling.contest import ATTAINMENT, CLAIRVOYANT, LULL, STATIC, Match, find_fewest, play, play_drawn
from bench.autoscaling.drawn import JUDGED
from bench.autoscaling.scenario import CONTENDERS, LEAST, find_rate, score
from bench.autoscaling.traces import list_loads, make_llmd
from bench.claims import Claim
from e2e.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.autoscaling.contest import Entry
    from bench.autoscaling.scenario import Score

COLD_STARTS: Final = (20.0, 100.0, 300.0)
LEAST_SAVED: Final = 15.0
LEAST_SHARE: Final = 80.0
DRAWN: Final = 24
FEW_DRAWN: Final = 6
LLMD_ATTAINMENT: Final = 98.0
LLMD_REPLICAS: Final = 5.5


def measure() -> list[Claim]:
    """All cold starts, others swept: about forty minutes of one core."""
    return _measure(COLD_STARTS, is_quick=False)


def measure_quick() -> list[Claim]:
    """Less of each trace, one cold start, others as documented: about two minutes."""
    return _measure(COLD_STARTS[1:2], is_quick=True)


def claim(entries: Sequence[Entry]) -> list[Claim]:
    """What is promised on one trace with one cold start; the entries are all of it."""
    lull = next(entry for entry in entries if entry.contender == LULL)
    peak = next(entry for entry in entries if entry.contender == STATIC and not entry.is_swept)
    bound = next(entry for entry in entries if entry.contender == CLAIRVOYANT)
    fewest = next(entry for entry in entries if entry.contender == STATIC and entry.is_swept)
    others = [entry for entry in entries if entry.contender not in {LULL, CLAIRVOYANT} and entry is not fewest]
    better = [one for one in others if one.attainment > lull.attainment and one.gpu_hours < lull.gpu_hours]
    cheapest = min((one.gpu_hours for one in others if one.holds), default=peak.gpu_hours)
    saved, possible = peak.gpu_hours - lull.gpu_hours, peak.gpu_hours - bound.gpu_hours
    subject = f"{lull.load}, cold start {lull.cold_start:g} s"
    count = len(entries)
    # Who does not hold has saved nothing: he has served less.
    less = 100 * (1 - lull.gpu_hours / cheapest) if lull.holds else 0.0
    share = 100 * saved / possible if lull.holds and possible > 0 else 0.0
    return [
        Claim(f"{subject}: within the SLO", 100 * lull.attainment, 100 * ATTAINMENT, "%", count, at_least=True),
        Claim(f"{subject}: baselines better and cheaper", len(better), 0, "", count),
        Claim(f"{subject}: GPU-hours less than the best baseline's", less, LEAST_SAVED, "%", count, at_least=True),
        # Nobody knows beforehand how few will do.
        Claim(
            f"{subject}: GPU-hours, of the fewest replicas' that hold",
            100 * lull.gpu_hours / fewest.gpu_hours,
            None,
            "%",
            count,
        ),
        Claim(f"{subject}: of the clairvoyant's saving", share, LEAST_SHARE, "%", count, at_least=True),
    ]


def claim_drawn(played: Sequence[Sequence[Entry]]) -> list[Claim]:
    """What is promised on loads that no setting was chosen for; of each, its entries."""
    count, dominated, holding = len(played), 0, 0
    less, fewest = [], []
    for entries in played:
        lull = next(entry for entry in entries if entry.contender == LULL)
        known_afterwards = next(entry for entry in entries if entry.contender == STATIC and entry.is_swept)
        others = [entry for entry in entries if entry is not lull and entry is not known_afterwards]
        dominated += any(one.attainment > lull.attainment and one.gpu_hours < lull.gpu_hours for one in others)
        holding += lull.holds
        fewest.append(100 * lull.gpu_hours / known_afterwards.gpu_hours)
        # The cheapest of those who serve as much, or as much as was asked for.
        equal = [one.gpu_hours for one in others if one.attainment >= min(lull.attainment, ATTAINMENT)]
        if equal:
            less.append(100 * (1 - lull.gpu_hours / min(equal)))
    subject = f"{count} loads drawn at random"
    return [
        Claim(f"{subject}: with a baseline better and cheaper", dominated, 0, "", count),
        Claim(f"{subject}: within the SLO for 99 % of the requests", 100 * holding / count, None, "%", count),
        Claim(
            f"{subject}: GPU-hours less than the best baseline's that serves as many, median",
            median(less) if less else 0.0,
            LEAST_SAVED,
            "%",
            len(less),
            at_least=True,
        ),
        Claim(f"{subject}: GPU-hours, of the fewest replicas' that hold, median", median(fewest), None, "%", count),
    ]


def claim_scenario(scores: dict[str, Score], count: int) -> list[Claim]:
    """What is promised in llm-d's scenario."""
    lull = scores[LULL]
    return [
        Claim("llm-d's scenario: within the SLO", 100 * lull.attainment, LLMD_ATTAINMENT, "%", count, at_least=True),
        Claim("llm-d's scenario: replicas on average", lull.replicas, LLMD_REPLICAS, "", count),
        Claim("llm-d's scenario: requests/s of one replica", find_rate(), 1.3, "/s", 1, at_least=True),
    ]


def show(entries: Iterable[Entry]) -> None:
    """Every figure, for people."""
    names = ("trace", "cold start", "contender", "setting", "in SLO", "TTFT", "TPOT", "GPU-hours", "most")
    table = Table(*names, "starts", "saved of static", "of clairvoyant's", box=None)
    for _, group in groupby(entries, key=lambda entry: (entry.load, entry.cold_start)):
        match = list(group)
        peak = next(one for one in match if one.contender == STATIC and not one.is_swept)
        bound = next((one for one in match if one.contender == CLAIRVOYANT), peak)
        for one in match:
            saved, possible = peak.gpu_hours - one.gpu_hours, peak.gpu_hours - bound.gpu_hours
            table.add_row(
                one.load,
                f"{one.cold_start:g} s",
                one.contender + (", swept" if one.is_swept else ""),
                one.setting,
                f"{one.attainment:.2%}",
                f"{one.ttft_attainment:.2%}",
                f"{one.tpot_attainment:.2%}",
                f"{one.gpu_hours:.2f}",
                str(one.most_replicas),
                str(one.starts),
                f"{saved / peak.gpu_hours:.1%}",
                f"{saved / possible:.0%}" if possible > 0 else "-",
            )
    Console(width=170, stderr=True).print(table)


def show_scenario(scores: dict[str, Score]) -> None:
    """llm-d's scenario, for people."""
    table = Table("llm-d's scenario", "in SLO", "replicas on average", box=None)
    for contender, one in scores.items():
        table.add_row(contender, f"{one.attainment:.2%}", f"{one.replicas:.2f}")
    Console(width=170, stderr=True).print(table)


def _measure(cold_starts: Sequence[float], *, is_quick: bool) -> list[Claim]:
    loads = range(len(list_loads(is_quick=is_quick)))
    seeds = range(JUDGED, JUDGED + (FEW_DRAWN if is_quick else DRAWN))
    say(
        f"  {len(loads) * len(cold_starts)} traces with cold starts, {len(seeds)} loads drawn at random, "
        f"and llm-d's scenario with at least {LEAST} replicas"
    )
    with ProcessPoolExecutor(processes.count()) as pool:
        scored = dict(zip(CONTENDERS, pool.map(score, CONTENDERS), strict=True))
        # What the cold starts of a trace have in common is found once.
        fewest = pool.map(partial(find_fewest, is_quick=is_quick), loads)
        matches = [
            Match(load, cold_start, fewest=count, is_quick=is_quick, is_swept=not is_quick)
            for load, count in zip(loads, fewest, strict=True)
            for cold_start in cold_starts
        ]
        playing, drawing = pool.map(play, matches), pool.map(play_drawn, seeds)
        played, drawn = list(playing), list(drawing)
    show(entry for entries in [*played, *drawn] for entry in entries)
    show_scenario(scored)
    claims = claim_scenario(scored, len(make_llmd())) + claim_drawn(drawn)
    return claims + [one for entries in played for one in claim(entries)]
