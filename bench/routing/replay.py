"""Replay a trace against engines, through gateways that do not talk to each other."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.claims import percentile
from bench.routing.engine import ROOM, Engine, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.routing.rules import Rule
    from bench.routing.trace import Arrival


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule came to."""

    hit_rate: float
    """Share of the prompts' tokens that were in the engine's memory."""
    mean: float
    """Seconds to the first byte."""
    p50: float
    p99: float
    imbalance: float
    """What the engine that read the most has read, over the mean."""


def replay(
    arrivals: Sequence[Arrival],
    make: Callable[[int, int], Rule],
    *,
    engines: int,
    gateways: int = 1,
    room: int = ROOM,
    deal: int = 2,
) -> Outcome:
    """Send all requests, and wait for the last answer. Each goes to a gateway that chance picks."""
    pool = [Engine(room) for _ in range(engines)]
    rules = [make(engines, number) for number in range(gateways)]
    chance = random.Random(deal)
    jobs: list[Job] = []
    events: list[tuple[float, int, int]] = []
    stamps = [0] * engines

    def run(place: int, now: float) -> None:
        begun, done = pool[place].advance(now)
        for job in begun:
            rules[job.gateway].record_first_byte(job)
        for job in done:
            rules[job.gateway].record_finish(job)

    def schedule(place: int) -> None:
        stamps[place] += 1
        at = pool[place].next_at()
        if at < float("inf"):
            heapq.heappush(events, (at, place, stamps[place]))

    def run_until(now: float) -> None:
        while events and events[0][0] <= now:
            at, place, stamp = heapq.heappop(events)
            if stamp == stamps[place]:
                run(place, at)
                schedule(place)

    for arrival in arrivals:
        run_until(arrival.at)
        job = Job(len(jobs), arrival, chance.randrange(gateways))
        jobs.append(job)
        for place in range(engines):
            run(place, arrival.at)
        job.engine = rules[job.gateway].choose(job, pool)
        pool[job.engine].add(job)
        for place in range(engines):
            schedule(place)
    run_until(float("inf"))
    waits = [job.first_byte_at - job.arrival.at for job in jobs]
    read = [engine.read for engine in pool]
    return Outcome(
        hit_rate=sum(job.cached for job in jobs) / sum(job.arrival.prompt_tokens for job in jobs),
        mean=sum(waits) / len(waits),
        p50=percentile(waits, 50),
        p99=percentile(waits, 99),
        imbalance=max(read) * engines / sum(read),
    )
