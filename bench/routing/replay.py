"""Replay a trace against engines, through gateways that do not talk to each other."""

from __future__ import annotations

import heapq
import math
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
    chance = random.Random(deal)
    pool = _Pool([Engine(room) for _ in range(engines)], [make(engines, number) for number in range(gateways)])
    jobs = []
    for number, arrival in enumerate(arrivals):
        job = Job(number, arrival, chance.randrange(gateways))
        pool.send(job)
        jobs.append(job)
    pool.run_until(math.inf)
    waits = [job.first_byte_at - job.arrival.at for job in jobs]
    read = [engine.read for engine in pool.engines]
    return Outcome(
        hit_rate=sum(job.cached for job in jobs) / sum(job.arrival.prompt_tokens for job in jobs),
        mean=sum(waits) / len(waits),
        p50=percentile(waits, 50),
        p99=percentile(waits, 99),
        imbalance=max(read) * engines / sum(read),
    )


class _Pool:
    """Engines, the gateways before them, and what happens next."""

    def __init__(self, engines: Sequence[Engine], rules: Sequence[Rule]) -> None:
        self.engines = engines
        self._rules = rules
        self._events: list[tuple[float, int, int]] = []
        self._stamps = [0] * len(engines)

    def send(self, job: Job) -> None:
        now = job.arrival.at
        self.run_until(now)
        for place in range(len(self.engines)):
            self._advance(place, now)
        job.engine = self._rules[job.gateway].choose(job, self.engines)
        self.engines[job.engine].add(job)
        for place in range(len(self.engines)):
            self._schedule(place)

    def run_until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            at, place, stamp = heapq.heappop(self._events)
            if stamp == self._stamps[place]:
                self._advance(place, at)
                self._schedule(place)

    def _advance(self, place: int, now: float) -> None:
        begun, done = self.engines[place].advance(now)
        for job in begun:
            self._rules[job.gateway].record_first_byte(job)
        for job in done:
            self._rules[job.gateway].record_finish(job)

    def _schedule(self, place: int) -> None:
        """What was expected of an engine before is void."""
        self._stamps[place] += 1
        at = self.engines[place].next_at()
        if at < math.inf:
            heapq.heappush(self._events, (at, place, self._stamps[place]))
