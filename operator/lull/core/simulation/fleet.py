"""The replicas of one LLMDeployment, the gateway in front of them, and a scaler that looks on and decides.

`simulate` goes from event to event: a request arrives, an engine ends a step or a run of steps, a replica becomes ready
or goes away, the scaler looks. Nothing is random but how long cold starts take and when spot capacity is lost, and a
seed gives both again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum, auto, unique
from heapq import heappop, heappush
from math import exp, inf, log
from typing import TYPE_CHECKING, Final, Protocol

from lull.core.affinity import EXPECTED_OUTPUT
from lull.core.routing import DEFAULT_MAX_NUM_SEQS, SLOTS_PER_SEQUENCE
from lull.core.simulation.chance import Chance
from lull.core.simulation.engine import Engine, Job, Request
from lull.core.simulation.outcome import Outcome, Sample, Slo, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.core.simulation.replica import ReplicaModel

__all__ = ["ColdStart", "Options", "Outcome", "Request", "Scaler", "Slo", "Spot", "View", "simulate"]

MONDAY: Final = 1_767_571_200.0
"""2026-01-05 00:00 UTC."""
_WINDOW: Final = 60.0
"""Seconds that the latencies in a view go back."""
_DEVIATIONS: Final = 1.2815515655446004
"""Of a normal distribution, between the median and the 90th percentile."""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Seconds from asked to ready: log-normal, as starts on real clusters are, or always the same."""

    low: float
    """10th percentile."""
    high: float
    """90th percentile."""

    def draw(self, chance: Chance) -> float:
        if self.high <= self.low:
            return self.low
        middle, spread = (log(self.low) + log(self.high)) / 2, (log(self.high) - log(self.low)) / 2
        return exp(middle + spread / _DEVIATIONS * chance.normal())


@dataclass(frozen=True, slots=True)
class Spot:
    """Capacity that is taken away again; another replica is asked for when the notice comes."""

    lifetime: float
    """Mean seconds from asked to the notice."""
    notice: float = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    cold_start: float | ColdStart = 100.0
    slo: Slo = field(default_factory=Slo)
    max_replicas: int = 1000
    initial_replicas: int = 0
    """Ready when the simulation begins."""
    gpus_per_replica: int = 1
    spot: Spot | None = None
    slots: int | None = None
    """Requests that the gateway gives one replica at a time; None: what it does where the spec says nothing."""
    max_held: int = 1000
    hold_seconds: float = 600.0
    drain_seconds: float = 60.0
    """What a replica that goes away may take to finish what it has."""
    wake_delay: float = 0.02
    """From a request that has to be held to the scaler's look."""
    begins: float = MONDAY
    """Seconds since the Unix epoch at which it is 0 in the trace, for schedules."""
    until: float = 0.0
    """Go on until then, even where all has been answered before."""


@dataclass(frozen=True, slots=True)
class View:
    """What a scaler sees."""

    now: float
    wall: float
    asked: int
    ready: int
    loading: int
    ready_at: float | None
    """When the youngest ready replica became ready."""
    held: int
    waiting: int
    """Let go, and without a seat in an engine yet."""
    running: int
    in_flight: int
    """Let go and not finished: waiting and running."""
    arrived: int
    """Since the start, as `finished`."""
    finished: int
    met: int
    """Of those that are over: answered within the SLO. Since the start, as `missed`."""
    missed: int
    tokens_held: int
    prompt_tokens_waiting: int
    """Let go, and not read yet by an engine."""
    output_tokens_outstanding_estimate: int
    """For what is in flight, by the average of the answers so far."""
    kv_usage: tuple[float, ...]
    """For each ready replica, as the next."""
    queue_by_replica: tuple[int, ...]
    reading_by_replica: tuple[bool, ...]
    """Whether it has prompts that it has not read to the end."""
    ttft_p90: float | None
    """Of first tokens within the last minute."""
    tpot_p90: float | None
    """Of answers that ended within the last minute."""
    cold_start: float | None
    """The last that was measured in this run."""


class Scaler(Protocol):
    @property
    def tick(self) -> float:
        """Seconds between two looks."""

    @property
    def wakes(self) -> bool:
        """Whether a request that has to be held makes it look at once."""

    def scale(self, view: View) -> int:
        """Replicas to have from now on."""


def simulate(
    requests: Iterable[Request], scaler: Scaler, replica: ReplicaModel, options: Options, seed: int
) -> Outcome:
    """Serve a trace, in order of time, until all of it is answered.

    The trace is read as time goes on, so whoever gives it sees how far the simulation is.
    """
    return _Fleet(scaler, replica, options, seed).run(requests)


@unique
class _Kind(IntEnum):
    """Of what is going to happen to a replica; at one moment in this order."""

    STEP = auto()
    READY = auto()
    NOTICE = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class _Replica:
    number: int
    engine: Engine
    asked_at: float
    ready_at: float | None = None
    is_leaving: bool = False
    is_gone: bool = False
    outstanding: int = 0
    """Tokens that its engine has yet to read and to write, as the gateway knows it."""


@dataclass(slots=True)
class _Latest:
    """The 90th percentile of what was measured within the last minute."""

    _times: deque[tuple[float, float]] = field(default_factory=deque)
    _ordered: list[float] = field(default_factory=list)

    def add(self, now: float, value: float) -> None:
        self._forget(now)
        self._times.append((now, value))
        insort(self._ordered, value)

    def find_p90(self, now: float) -> float | None:
        self._forget(now)
        return self._ordered[round(0.9 * (len(self._ordered) - 1))] if self._ordered else None

    def _forget(self, now: float) -> None:
        times, ordered = self._times, self._ordered
        while times and times[0][0] <= now - _WINDOW:
            del ordered[bisect_left(ordered, times.popleft()[1])]


class _Fleet:
    def __init__(self, scaler: Scaler, replica: ReplicaModel, options: Options, seed: int) -> None:
        if scaler.tick <= 0:
            raise ValueError(f"a scaler's tick must be more than 0, not {scaler.tick}")
        self._scaler = scaler
        self._model = replica
        self._options = options
        self._chance = Chance(seed)
        self._slots = options.slots or SLOTS_PER_SEQUENCE * min(replica.max_num_seqs, DEFAULT_MAX_NUM_SEQS)
        self._tally = Tally(options.slo)
        self._now = 0.0
        self._numbers = 0
        self._events: list[tuple[float, _Kind, int, _Replica]] = []
        self._replicas: dict[int, _Replica] = {}
        """All that cost, by number."""
        self._ready: list[_Replica] = []
        """Those that get requests, oldest first."""
        self._loading: list[_Replica] = []
        self._held: deque[Job] = deque()
        self._again: deque[Job] = deque()
        """Held again, as their replica went away: they go first."""
        self._look_at = 0.0
        self._in_flight = 0
        self._tokens_held = 0
        self._expected = float(EXPECTED_OUTPUT)
        self._cold_start: float | None = None
        self._ttft = _Latest()
        self._tpot = _Latest()

    def run(self, requests: Iterable[Request]) -> Outcome:
        options, events, tally = self._options, self._events, self._tally
        for _ in range(min(options.initial_replicas, options.max_replicas)):
            self._start(0.0)
        tally.starts = tally.wakes = 0
        arrivals = iter(requests)
        coming = next(arrivals, None)
        sample_at = 0.0
        while coming is not None or self._held or self._again or self._in_flight or self._now < options.until:
            arrival_at = inf if coming is None else coming.at
            event_at = events[0][0] if events else inf
            expires_at = self._find_expiry() if self._held or self._again else inf
            now = min(arrival_at, event_at, self._look_at, expires_at, sample_at)
            if coming is None and not self._held and not self._again and not self._in_flight and now > options.until:
                self._now = options.until
                break
            self._now = now
            if event_at == now:
                self._happen(*heappop(events))
            elif coming is not None and arrival_at == now:
                self._arrive(coming)
                following = next(arrivals, None)
                if following is not None and following.at < coming.at:
                    raise ValueError(f"the requests must be in order of time: {following.at:g} s after {coming.at:g} s")
                coming = following
            elif expires_at == now:
                self._shed()
            elif self._look_at == now:
                self._look()
            else:
                self._sample()
                sample_at = now + tally.sample_every
        self._sample()
        tally.replica_seconds += sum(self._now - replica.asked_at for replica in self._replicas.values())
        return tally.conclude(self._now, gpus_per_replica=options.gpus_per_replica)

    def _happen(self, at: float, kind: _Kind, _: int, replica: _Replica) -> None:
        if replica.is_gone:
            return
        match kind:
            case _Kind.STEP:
                if at == replica.engine.until:
                    self._step(replica)
            case _Kind.READY:
                self._loading.remove(replica)
                self._open(replica)
            case _Kind.NOTICE:
                if not replica.is_leaving:
                    self._lose(replica)
            case _Kind.GONE:
                self._end(replica)

    def _arrive(self, request: Request) -> None:
        if request.input_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"a request must read and write a token at least, not {request}")
        tally = self._tally
        tally.requests += 1
        if request.input_tokens + request.output_tokens > self._model.kv_tokens:
            tally.refused += 1
            return
        read = min(request.cached_tokens, request.input_tokens - 1)
        job = Job(request, tally.requests, request.input_tokens, read, held_at=self._now)
        if not self._held and not self._again and (replica := self._pick()) is not None:
            self._let_go(job, replica)
            return
        if len(self._held) >= self._options.max_held:
            tally.shed += 1
            return
        self._hold(job, self._held)

    def _hold(self, job: Job, line: deque[Job]) -> None:
        line.append(job)
        self._tokens_held += job.request.input_tokens
        if self._scaler.wakes:
            self._look_at = min(self._look_at, self._now + self._options.wake_delay)

    def _step(self, replica: _Replica) -> None:
        """An engine has come to the end of what it had planned."""
        now, engine, tally = self._now, replica.engine, self._tally
        beside = self._model.request_seconds
        answered, finished = engine.advance()
        for job in answered:
            replica.outstanding -= job.request.input_tokens
            self._ttft.add(now, now - job.request.at + beside)
        for job in finished:
            request, first_at = job.request, job.first_at or 0.0
            replica.outstanding -= EXPECTED_OUTPUT
            tpot = None
            if request.output_tokens > 1:
                tpot = (now - first_at) / (request.output_tokens - 1)
                self._tpot.add(now, tpot)
            tally.record(first_at - request.at + beside, tpot)
            self._expected += (request.output_tokens - self._expected) / min(tally.finished + 10, 1000)
        self._in_flight -= len(finished)
        if engine.until < inf:
            heappush(self._events, (engine.until, _Kind.STEP, replica.number, replica))
        if finished:
            if replica.is_leaving:
                if not engine.in_flight:
                    self._end(replica)
            elif self._held or self._again:
                self._let_all_go()

    def _pick(self) -> _Replica | None:
        """As the gateway does: the least outstanding of those that have a slot."""
        best, least = None, (inf, 0)
        for replica in self._ready:
            rank = (replica.outstanding, replica.engine.in_flight)
            if rank < least and rank[1] < self._slots:
                best, least = replica, rank
        return best

    def _let_go(self, job: Job, replica: _Replica) -> None:
        request, engine = job.request, replica.engine
        self._tally.longest_hold = max(self._tally.longest_hold, self._now - job.held_at)
        replica.outstanding += request.input_tokens + EXPECTED_OUTPUT
        self._in_flight += 1
        before = engine.until
        engine.take(job, self._now)
        if engine.until != before:
            heappush(self._events, (engine.until, _Kind.STEP, replica.number, replica))

    def _let_all_go(self) -> None:
        """Whoever is held, as long as there are slots."""
        for line in (self._again, self._held):
            while line and (replica := self._pick()) is not None:
                job = line.popleft()
                self._tokens_held -= job.request.input_tokens
                self._let_go(job, replica)

    def _find_expiry(self) -> float:
        """When the next of those who are held has waited for too long."""
        earliest = min(line[0].held_at for line in (self._again, self._held) if line)
        return earliest + self._options.hold_seconds

    def _shed(self) -> None:
        """Turn away whoever has waited longest."""
        line = min((line for line in (self._again, self._held) if line), key=lambda line: line[0].held_at)
        job = line.popleft()
        self._tally.shed += 1
        self._tally.longest_hold = max(self._tally.longest_hold, self._now - job.held_at)
        self._tokens_held -= job.request.input_tokens

    def _look(self) -> None:
        self._look_at = self._now + self._scaler.tick
        self._resize(min(max(self._scaler.scale(self._see()), 0), self._options.max_replicas))

    def _resize(self, wanted: int) -> None:
        asked = len(self._ready) + len(self._loading)
        for _ in range(asked, wanted):
            options = self._options
            seconds = options.cold_start
            self._start(seconds.draw(self._chance) if isinstance(seconds, ColdStart) else seconds)
        for _ in range(wanted, asked):
            # Kubernetes deletes what is not ready first, and of the rest the youngest.
            self._leave(self._loading[-1] if self._loading else self._ready[-1], self._options.drain_seconds)

    def _start(self, seconds: float) -> None:
        tally = self._tally
        self._numbers += 1
        replica = _Replica(self._numbers, Engine(self._model), self._now)
        tally.starts += 1
        tally.wakes += not self._replicas
        self._replicas[replica.number] = replica
        tally.most_replicas = max(tally.most_replicas, len(self._replicas))
        if (spot := self._options.spot) is not None:
            taken_at = self._now + self._chance.exponential(spot.lifetime)
            heappush(self._events, (taken_at, _Kind.NOTICE, replica.number, replica))
        if seconds > 0:
            self._loading.append(replica)
            heappush(self._events, (self._now + seconds, _Kind.READY, replica.number, replica))
        else:
            self._open(replica)

    def _open(self, replica: _Replica) -> None:
        """From now on it gets requests."""
        replica.ready_at = self._now
        if self._now > replica.asked_at:
            self._cold_start = self._now - replica.asked_at
        self._ready.append(replica)
        self._let_all_go()

    def _lose(self, replica: _Replica) -> None:
        self._tally.losses += 1
        asked = len(self._ready) + len(self._loading)
        spot = self._options.spot
        self._leave(replica, spot.notice if spot is not None else 0.0)
        self._resize(asked)

    def _leave(self, replica: _Replica, seconds: float) -> None:
        """It gets nothing more to do, and has so long to finish what it has."""
        (self._loading if replica.ready_at is None else self._ready).remove(replica)
        replica.is_leaving = True
        if replica.engine.in_flight:
            heappush(self._events, (self._now + seconds, _Kind.GONE, replica.number, replica))
        else:
            self._end(replica)

    def _end(self, replica: _Replica) -> None:
        """It is gone; what it had not begun to answer is held again, the rest is cut."""
        replica.is_gone = True
        del self._replicas[replica.number]
        self._tally.replica_seconds += self._now - replica.asked_at
        cut = list(replica.engine.jobs())
        self._in_flight -= len(cut)
        for job in cut:
            if job.first_at is not None:
                self._tally.failed += 1
                continue
            again = Job(job.request, job.number, job.request.input_tokens, 0, held_at=self._now)
            self._hold(again, self._again)
        if self._again:
            self._let_all_go()

    def _see(self) -> View:
        now, replicas = self._now, self._replicas.values()
        waiting = sum([len(replica.engine.waiting) for replica in replicas])
        written = sum([replica.engine.written(now) for replica in replicas])
        capacity = self._model.kv_tokens
        return View(
            now=now,
            wall=self._options.begins + now,
            asked=len(self._ready) + len(self._loading),
            ready=len(self._ready),
            loading=len(self._loading),
            ready_at=self._ready[-1].ready_at if self._ready else None,
            held=len(self._held) + len(self._again),
            waiting=waiting,
            running=self._in_flight - waiting,
            in_flight=self._in_flight,
            arrived=self._tally.requests,
            finished=self._tally.finished,
            met=self._tally.met,
            missed=self._tally.missed,
            tokens_held=self._tokens_held,
            prompt_tokens_waiting=sum([replica.engine.unread for replica in replicas]),
            output_tokens_outstanding_estimate=max(0, round(self._expected * self._in_flight - written)),
            kv_usage=tuple([replica.engine.kv_tokens(now) / capacity for replica in self._ready]),
            queue_by_replica=tuple([len(replica.engine.waiting) for replica in self._ready]),
            reading_by_replica=tuple([replica.engine.unread > 0 for replica in self._ready]),
            ttft_p90=self._ttft.find_p90(now),
            tpot_p90=self._tpot.find_p90(now),
            cold_start=self._cold_start,
        )

    def _sample(self) -> None:
        waiting = sum([len(replica.engine.waiting) for replica in self._replicas.values()])
        self._tally.sample(
            Sample(
                at=self._now,
                asked=len(self._ready) + len(self._loading),
                ready=len(self._ready),
                leaving=len(self._replicas) - len(self._ready) - len(self._loading),
                held=len(self._held) + len(self._again),
                waiting=waiting,
                running=self._in_flight - waiting,
                arrived=self._tally.requests,
                met=self._tally.met,
                missed=self._tally.missed,
            )
        )
