"""What a simulation comes to: how many requests met the SLO, and what that took."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_MOST_SAMPLES: Final = 2048


@dataclass(frozen=True, slots=True)
class Slo:
    """Seconds that a request's first token, and each further one on average, may take."""

    ttft: float = 3.0
    tpot: float = 0.1


@dataclass(frozen=True, slots=True)
class Percentiles:
    """In seconds, of the requests that were answered."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float


class Sample(NamedTuple):
    """How things stood at one moment."""

    at: float
    asked: int
    ready: int
    leaving: int
    """Replicas that only finish what they have, and still cost."""
    held: int
    waiting: int
    running: int
    arrived: int
    """This and what follows: since the simulation began."""
    met: int
    missed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares are of all requests that arrived: one that was refused, shed or cut missed its SLO."""

    seconds: float
    """From the first moment to the last."""
    requests: int
    finished: int
    refused: int
    """Larger than an engine's whole KV cache."""
    shed: int
    """Not let go in time, or more than may be held."""
    failed: int
    """Cut in the middle of an answer, as their replica went away."""
    attainment: float
    """Share that met both; this and the next two are 1 where nothing arrived."""
    ttft_attainment: float
    tpot_attainment: float
    ttft: Percentiles | None
    """None where nothing was answered."""
    tpot: Percentiles | None
    """None where no answer had more than one token."""
    longest_hold: float
    replica_hours: float
    """From being asked for to being gone, loading and draining included."""
    gpu_hours: float
    mean_replicas: float
    most_replicas: int
    starts: int
    """Replicas that were asked for."""
    wakes: int
    """Those of them that were asked for when there was none."""
    losses: int
    """Replicas that spot capacity took away."""
    samples: tuple[Sample, ...]


@dataclass(slots=True)
class Tally:
    """What is counted on the way."""

    slo: Slo
    requests: int = 0
    finished: int = 0
    refused: int = 0
    shed: int = 0
    failed: int = 0
    met_ttft: int = 0
    met_tpot: int = 0
    met: int = 0
    longest_hold: float = 0.0
    starts: int = 0
    wakes: int = 0
    losses: int = 0
    most_replicas: int = 0
    replica_seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    sample_every: float = 1.0
    _ttfts: array[float] = field(default_factory=lambda: array("d"))
    _tpots: array[float] = field(default_factory=lambda: array("d"))

    @property
    def missed(self) -> int:
        return self.finished + self.refused + self.shed + self.failed - self.met

    def record(self, ttft: float, tpot: float | None) -> None:
        """A request was answered; an answer of one token has no time per further token, and so meets any."""
        self.finished += 1
        self._ttfts.append(ttft)
        if tpot is not None:
            self._tpots.append(tpot)
        in_time, at_pace = ttft <= self.slo.ttft, tpot is None or tpot <= self.slo.tpot
        self.met_ttft += in_time
        self.met_tpot += at_pace
        self.met += in_time and at_pace

    def sample(self, sample: Sample) -> None:
        """Keep a sample; of a long run fewer are kept, so that memory is bounded."""
        self.samples.append(sample)
        if len(self.samples) > _MOST_SAMPLES:
            del self.samples[1::2]
            self.sample_every *= 2

    def conclude(self, seconds: float, *, gpus_per_replica: int) -> Outcome:
        hours = self.replica_seconds / 3600
        return Outcome(
            seconds=seconds,
            requests=self.requests,
            finished=self.finished,
            refused=self.refused,
            shed=self.shed,
            failed=self.failed,
            attainment=self._share(self.met),
            ttft_attainment=self._share(self.met_ttft),
            tpot_attainment=self._share(self.met_tpot),
            ttft=_measure(self._ttfts),
            tpot=_measure(self._tpots),
            longest_hold=self.longest_hold,
            replica_hours=hours,
            gpu_hours=hours * gpus_per_replica,
            mean_replicas=self.replica_seconds / seconds if seconds else 0.0,
            most_replicas=self.most_replicas,
            starts=self.starts,
            wakes=self.wakes,
            losses=self.losses,
            samples=tuple(self.samples),
        )

    def _share(self, count: int) -> float:
        return count / self.requests if self.requests else 1.0


def _measure(values: array[float]) -> Percentiles | None:
    if not values:
        return None
    ordered, last = sorted(values), len(values) - 1
    p50, p90, p95, p99 = (ordered[round(last * share)] for share in (0.5, 0.9, 0.95, 0.99))
    return Percentiles(sum(ordered) / len(ordered), p50, p90, p95, p99, ordered[-1])
