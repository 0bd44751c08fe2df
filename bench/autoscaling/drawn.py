"""Loads drawn at random, to judge by what no setting was chosen for.

Every seed is another service: an engine, an SLO, lengths, a shape of load, and a cold start. Seeds from `JUDGED` on are
for judging; those before it are for whoever changes a setting.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from bench.autoscaling.traces import MOST, Load
from lull.core.simulation.fleet import Request, Slo
from lull.core.simulation.presets import PRESETS
from lull.core.simulation.replica import Load as Steady
from lull.core.simulation.replica import highest_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lull.core.simulation.replica import ReplicaModel

JUDGED: Final = 1000
MINUTE: Final = 60.0
MOST_REQUESTS: Final = 40_000
_LONGEST: Final = 8192


@dataclass(frozen=True, slots=True)
class Draw:
    """A load, and how long its replicas take to start."""

    load: Load
    cold_start: float


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Medians of two log-normal distributions, in tokens, and how wide they are."""

    read: float
    written: float
    width: float

    def draw(self, at: float, chance: random.Random) -> Request:
        read, written = (
            min(_LONGEST, max(1, round(chance.lognormvariate(math.log(median), self.width))))
            for median in (self.read, self.written)
        )
        return Request(at, read, written)

    @property
    def mean(self) -> Steady:
        more = math.exp(self.width**2 / 2)
        return Steady(input_tokens=self.read * more, output_tokens=self.written * more)


def draw(seed: int) -> Draw:
    """The same for a seed at all times."""
    chance = random.Random(seed)
    while True:
        engine = chance.choice(sorted(PRESETS))
        lengths = _Lengths(_between(chance, 100, 4000), _between(chance, 40, 800), chance.uniform(0.2, 1.2))
        slo = Slo(ttft=round(_between(chance, 1, 20), 1), tpot=round(_between(chance, 0.03, 0.2), 3))
        rate = highest_rate(PRESETS[engine], lengths.mean, ttft=slo.ttft, tpot=slo.tpot)
        replicas, name = chance.uniform(3, 14), chance.choice(sorted(SHAPES))
        minutes = round(_between(chance, 60, 240))
        variation = chance.choice((1.0, 1.0, chance.uniform(1, 2.5)))
        shares = SHAPES[name](minutes, chance)
        expected = sum(shares) * MINUTE * rate * replicas
        if 1000 < expected < MOST_REQUESTS and _is_possible(PRESETS[engine], lengths, slo):
            break
    rates = [share * rate * replicas for share in shares]
    read = partial(_arrive, tuple(rates), variation, lengths, seed)
    return Draw(Load(f"{name} {seed}", engine, 1, slo, MOST, read), round(_between(chance, 15, 300)))


def _is_possible(replica: ReplicaModel, lengths: _Lengths, slo: Slo) -> bool:
    """Whether an idle replica keeps the SLO with room for requests that are longer than most."""
    longest = lengths.read * math.exp(2.5 * lengths.width)
    return replica.prefill_seconds(min(longest, _LONGEST)) < slo.ttft / 4


def _between(chance: random.Random, low: float, high: float) -> float:
    """Each order of magnitude is as likely as the next."""
    return math.exp(chance.uniform(math.log(low), math.log(high)))


def _waves(minutes: int, chance: random.Random) -> list[float]:
    """Day and night, as a wave that is cut off below nothing."""
    period, low, phase = chance.uniform(40, 200), chance.uniform(-0.5, 0.6), chance.random()
    waves = [(1 + math.sin(2 * math.pi * (minute / period + phase))) / 2 for minute in range(minutes)]
    return [max(0.0, low + (1 - low) * wave) for wave in waves]


def _ramps(minutes: int, chance: random.Random) -> list[float]:
    """From one level straight to another."""
    shares: list[float] = []
    level = chance.random()
    while len(shares) < minutes:
        until, count = chance.random(), chance.randint(5, 40)
        shares += [level + (until - level) * step / count for step in range(count)]
        level = until
    return shares[:minutes]


def _bursts(minutes: int, chance: random.Random) -> list[float]:
    """Little, and now and then much more of it for some minutes."""
    low, every = chance.uniform(0.05, 0.4), chance.uniform(20, 60)
    shares = [low] * minutes
    at = chance.expovariate(1 / every)
    while at < minutes:
        until = at + chance.uniform(2, 20)
        height = chance.uniform(2 * low, 1)
        for minute in range(int(at), min(minutes, int(until) + 1)):
            shares[minute] = max(shares[minute], height)
        at = until + chance.expovariate(1 / every)
    return shares


def _switches(minutes: int, chance: random.Random) -> list[float]:
    """All or nothing."""
    shares: list[float] = []
    while len(shares) < minutes:
        shares += [chance.uniform(0.4, 1)] * chance.randint(10, 40) + [0.0] * chance.randint(5, 40)
    return shares[:minutes]


def _wander(minutes: int, chance: random.Random) -> list[float]:
    """At random, by a few per cent a minute, and back to the middle."""
    width = chance.uniform(0.03, 0.12)
    steps = accumulate(range(minutes), lambda level, _: 0.98 * level + chance.gauss(0, width), initial=0.0)
    return [min(1.0, 0.5 * math.exp(level)) for level in steps][:minutes]


def _flat(minutes: int, _: random.Random) -> list[float]:
    """The same all the time."""
    return [0.7] * minutes


SHAPES: Final[dict[str, Callable[[int, random.Random], list[float]]]] = {
    "waves": _waves,
    "ramps": _ramps,
    "bursts": _bursts,
    "switches": _switches,
    "wander": _wander,
    "flat": _flat,
}


def _arrive(rates: Sequence[float], variation: float, lengths: _Lengths, seed: int) -> tuple[Request, ...]:
    chance = random.Random(seed)
    times = (at for minute, rate in enumerate(rates) for at in _spread(rate, variation, minute * MINUTE, chance))
    return tuple(lengths.draw(at, chance) for at in times)


def _spread(rate: float, variation: float, begin: float, chance: random.Random) -> Iterator[float]:
    if rate <= 0:
        return
    shape = 1 / variation**2
    at = begin + chance.gammavariate(shape, 1 / (rate * shape)) * chance.random()
    while at < begin + MINUTE:
        yield at
        at += chance.gammavariate(shape, 1 / (rate * shape))
