"""Rules by which gateways choose an engine. Each gateway knows what it did itself, and nothing of the others."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from bisect import bisect
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol

from lull.api.llmdeployment import Key
from lull.core import routing
from lull.core.affinity import EXPECTED_OUTPUT, Work
from lull.core.routing import Candidate, Choice, Endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.routing.engine import Engine, Job

SLOTS: Final = 512


class Rule(Protocol):
    """One gateway's."""

    def choose(self, job: Job, engines: Sequence[Engine]) -> int:
        """Choose an engine, and count the request there."""

    def record_first_byte(self, job: Job) -> None:
        """The engine answers."""

    def record_finish(self, job: Job) -> None:
        """The request is over."""


class _Counting(ABC):
    """Counts requests in flight."""

    def __init__(self, size: int, number: int) -> None:
        self.in_flight = [0] * size
        self.turn = number
        self.random = random.Random(number)

    def choose(self, job: Job, engines: Sequence[Engine]) -> int:
        engine = self.select(job, engines)
        self.in_flight[engine] += 1
        return engine

    @abstractmethod
    def select(self, job: Job, engines: Sequence[Engine]) -> int:
        """The engine that gets a request."""

    def record_first_byte(self, job: Job) -> None:  # noqa: B027  most rules have no use for it
        """An engine has begun to answer."""

    def record_finish(self, job: Job) -> None:
        self.in_flight[job.engine] -= 1

    def least(self) -> int:
        fewest = min(self.in_flight)
        return self.random.choice([place for place, count in enumerate(self.in_flight) if count == fewest])


class RoundRobin(_Counting):
    """One after the other."""

    def select(self, job: Job, engines: Sequence[Engine]) -> int:  # noqa: ARG002  it looks at nothing
        self.turn += 1
        return self.turn % len(engines)


class Random(_Counting):
    """Any."""

    def select(self, job: Job, engines: Sequence[Engine]) -> int:  # noqa: ARG002  it looks at nothing
        return self.random.randrange(len(engines))


class BoundedHash(_Counting):
    """Consistent hashing with bounded loads, as KubeAI's `PrefixHash`.

    256 points for each engine, and none may have more than 125 % of the mean in flight. KubeAI hashes the first hundred
    characters of a conversation's first message by the user: the second block is the nearest to that in the trace,
    as all conversations begin with the same one.
    """

    def __init__(self, size: int, number: int, *, block: int) -> None:
        super().__init__(size, number)
        self.block = block
        self.ring = sorted((_hash(f"{engine}/{point}"), engine) for engine in range(size) for point in range(256))

    def select(self, job: Job, engines: Sequence[Engine]) -> int:
        blocks = job.arrival.blocks
        if not blocks:
            return self.least()
        start = bisect(self.ring, (_hash(str(blocks[min(self.block, len(blocks) - 1)])), 0))
        bound = 1.25 * (sum(self.in_flight) + 1) / len(engines)
        for step in range(len(self.ring)):
            engine = self.ring[(start + step) % len(self.ring)][1]
            if self.in_flight[engine] + 1 <= bound or self.in_flight[engine] == 0:
                return engine
        return self.least()


class CacheAware(_Counting):
    """vllm-router 0.1.17's `cache_aware` with its defaults.

    The engine that had the longest beginning last, where that is over 30 % of the prompt, or else the one with the
    fewest in flight; that one too where the most and the fewest in flight are more than 64 and a factor of 1.5 apart.
    """

    def __init__(self, size: int, number: int) -> None:
        super().__init__(size, number)
        self.owners: OrderedDict[int, int] = OrderedDict()
        self.bound = 16_384 * size
        """2^25 characters for each engine."""

    def select(self, job: Job, engines: Sequence[Engine]) -> int:  # noqa: ARG002  it knows what it did itself
        blocks = job.arrival.blocks
        most, fewest = max(self.in_flight), min(self.in_flight)
        engine = -1
        if not (most - fewest > 64 and most > 1.5 * fewest):
            matched = 0
            for block in blocks:
                if block not in self.owners:
                    break
                matched += 1
            if blocks and matched / len(blocks) > 0.3:
                engine = self.owners[blocks[matched - 1]]
        if engine < 0:
            engine = self.least()
        for block in blocks:
            self.owners.pop(block, None)
            self.owners[block] = engine
        while len(self.owners) > self.bound:
            self.owners.popitem(last=False)
        return engine


class Oracle(_Counting):
    """Knows every engine's memory and all that it has yet to read, of all gateways, and weighs them as Lull does."""

    def select(self, job: Job, engines: Sequence[Engine]) -> int:
        arrival = job.arrival
        costs = [engine.count_unread() - routing.CACHE_WEIGHT * engine.count_cached(arrival) for engine in engines]
        least = min(costs)
        return self.random.choice([place for place, cost in enumerate(costs) if cost == least])


class Lull:
    """`lull.core.routing`, as the gateway calls it; without blocks it is least-load."""

    def __init__(self, size: int, number: int, *, affinity: bool, feedback: bool = True) -> None:
        self.affinity = affinity
        self.feedback = feedback
        self.candidates = [
            Candidate(Endpoint(f"engine-{place}", f"engine-{place}", Key("bench", "model"), "", 8000, ready=True))
            for place in range(size)
        ]
        self.works: dict[int, Work] = {}
        self.turn = number

    def choose(self, job: Job, engines: Sequence[Engine]) -> int:  # noqa: ARG002  it knows what it did itself
        arrival = job.arrival
        work = Work(arrival.prompt_tokens, EXPECTED_OUTPUT, arrival.blocks if self.affinity else ())
        self.turn += 1
        candidate = routing.pick(self.candidates, Choice(slots=SLOTS, turn=self.turn, work=work), now=0.0)
        assert candidate is not None
        routing.record_start(candidate, work)
        self.works[job.number] = work
        return self.candidates.index(candidate)

    def record_first_byte(self, job: Job) -> None:
        routing.record_first_byte(self.candidates[job.engine], self.works[job.number])

    def record_finish(self, job: Job) -> None:
        routing.record_finish(
            self.candidates[job.engine], self.works.pop(job.number), job.cached if self.feedback else None
        )


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
