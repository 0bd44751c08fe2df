"""What replicas carry within the SLO, and what they will have to, learnt from how requests fare.

How busy a replica is shows in three ways, each a share of what the SLO allows: the speed at which it writes, which
falls in proportion to load (1/time per token is linear in it); its KV cache; and the share of time in which it has
prompts to read, on which the wait for a first token depends as in any queue. Of answers that do not stream only the
whole time is seen, waits included: with load it grows as if the replica were shared among its requests, which is how
busy it is then. The highest of them, and the requests that it finishes meanwhile, tell how many requests a second it
carries when it is just not too busy: its capacity.
Where every replica always has prompts to read it is saturated, and what it finishes then is its capacity and a bit.

Arrivals over capacity are the replicas that are needed, times a margin for what comes while a replica starts. The
margin is steered by the SLO itself: each miss raises it, and each success lowers it by as much less as misses are
allowed to be rarer, so that over time as many requests miss as may (adaptive conformal inference: Gibbs and Candès,
NeurIPS 2021). It needs no model of the traffic. What is missed while load is as usual and there are replicas enough for
it is no surprise that a margin is for: then a replica carries less than how busy it is lets hope, and capacity is
discounted in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lull.core.signals import Service

COLD_START: Final = 120.0
"""Until one was measured."""
FIRST_MARGIN: Final = 0.25
"""Replicas on top of those needed, as a share of them."""
LEAST_MARGIN: Final = 0.05
"""Capacity is no target to go beyond: what was missed too rarely for an hour is no credit for the next. Nor is it one to
sit on: what a replica carries changes with its requests, and where all of it is used a little less is a queue."""
MOST_MARGIN: Final = 2.0
MOST_OVERRATED: Final = 1.0
"""A replica is taken to carry half of what it seems to, at least."""

_FAST: Final = 10.0
_SLOW: Final = 60.0
_CLEARING: Final = 2.0
"""Cold starts in which what has piled up is to be worked off."""
_SPREAD: Final = 600.0
_CALM: Final = 3.0
"""Standard deviations up to which a difference is chance, while load is as it was; from twice as many on nothing of it is."""
_CHANGING: Final = 1.5
"""The same while load changes: a further step in that direction needs less proof. A replica that is started for a wave
of noise costs a cold start and comes when the wave is over."""
_LATELY: Final = 300.0
_BUSY: Final = 45.0
_HOUR: Final = 3600.0
_FADING: Final = 2 * 86400.0
_MINUTE: Final = 60.0
"""Over which latencies are measured: what was rough before that shows in them no more."""
_LEARNING: Final = 300.0
"""Seconds of evidence after which the oldest begins to fade."""
_ENOUGH: Final = 30.0
"""Seconds of evidence from which capacity counts as known."""
_KV_TARGET: Final = 0.9
_TAIL: Final = 0.25
"""Times per token spread less than waits."""
_MOST_READING: Final = 0.85
_LEAST_READING: Final = 0.3
_SATURATED: Final = 0.9
_SUSTAINED: Final = 0.87
"""Of what a saturated replica finishes: with less to do it keeps the SLO."""
_TELLING: Final = 0.15
"""A replica that is less busy tells little about how busy it may be."""
_AGEING: Final = 1e-5
"""A second. The best that was seen fades, as engines and requests change."""
_UNSEEN: Final = 0.9
"""Of the best time per token that was seen: an idle replica, which hardly ever is, would do better."""
_STEERING: Final = 0.8
_EASILY: Final = 0.8
"""Of a limit: what a replica alone takes, where the SLO is within reach."""
_STEERING_SECONDS: Final = 36.0
"""So many seconds of nothing but misses raise the margin by `_STEERING`."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What `spec.slo` asks for, in seconds."""

    first_token: float
    per_token: float
    percentile: int

    @property
    def allowed(self) -> float:
        """Share of the requests that may miss it."""
        return 1 - self.percentile / 100

    @property
    def tail(self) -> float:
        """How much longer than the 90th percentile a wait at the objective's percentile is, if exponential."""
        return log(self.allowed) / log(0.1)


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is at one moment, beside what the service says of itself."""

    now: float
    ready: int
    held: int
    loading: int = 0


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What was learnt so far; rates are per second."""

    at: float
    service: Service
    """As last seen: counts are compared with it."""
    ready: int
    changed_at: float
    """When the number of ready replicas last changed."""
    rough_at: float
    """When more requests than usual last waited."""
    age: float = 0.0
    """Seconds that were looked at."""
    fast: float = 0.0
    """Arrivals, over the last seconds, the last minute, the last minutes, and the last hour."""
    slow: float = 0.0
    lately: float = 0.0
    hourly: float = 0.0
    peak: float = 0.0
    """The most arrivals of a minute; fades over days."""
    spread: float = 0.0
    """Variance of `fast` about `slow`."""
    served: float = 0.0
    """Finished by each ready replica."""
    reading: float = 0.0
    kv_usage: float = 0.0
    quickest: float | None = None
    """Best time per token."""
    promptest: float | None = None
    """Best time to the first token."""
    briefest: float | None = None
    """Best time of answers that do not stream, as a share of what the SLO allows."""
    busyness: float = 0.0
    """Of a replica, where 1 is as busy as the SLO allows."""
    capacity: float = 0.0
    """Requests that a replica carries, by how busy it is."""
    overrated: float = 0.0
    """How much higher `capacity` is than what a replica carries with as few misses as are allowed, as a share of that."""
    evidence: float = 0.0
    margin: float = FIRST_MARGIN
    is_steered: bool = False
    """Whether all was calm since a replica is ready: what is missed while the first one starts is no matter of margin."""

    @property
    def is_known(self) -> bool:
        return self.evidence >= _ENOUGH and self.capacity > 0

    @property
    def carried(self) -> float:
        """Requests that a replica carries within the SLO."""
        return self.capacity / (1 + self.overrated)

    @property
    def is_calm(self) -> bool:
        """Whether what is missed is missed by the replicas that are there, with what usually comes."""
        return self.at - max(self.rough_at, self.changed_at) > _MINUTE and self.expected <= self.carried * self.ready

    @property
    def is_rough(self) -> bool:
        """Whether more than usual waited within the last minute."""
        return self.at - self.rough_at <= _MINUTE

    @property
    def expected(self) -> float:
        """Arrivals: those of the last minute, moved to those of the last seconds as far as chance does not explain it."""
        chance = sqrt(max(self.slow / (2 * _FAST), self.spread))
        more = self.fast - self.slow
        surprise = abs(more) / chance / self._find_significance(more) - 1 if chance else 0.0
        return self.slow + more * min(1.0, max(0.0, surprise))

    def _find_significance(self, more: float) -> float:
        """Standard deviations up to which so much more, or less, than in the last minute is chance."""
        change = self.slow - self.lately
        if change * more <= 0:
            return _CALM
        deviations = abs(change) / sqrt(max(self.slow, self.lately) / (2 * _SLOW))
        return min(_CALM, max(_CHANGING, _CALM + 1 - deviations))


@dataclass(frozen=True, slots=True)
class Need:
    """Replicas, in parts of one."""

    now: float
    """For what comes, the work that has piled up included."""
    lasting: float
    """For what has come over the last minute: as many stay."""
    backlog: float
    """Of `now`, for what has piled up."""


def learn(known: Knowledge | None, service: Service, scene: Scene, objective: Objective) -> Knowledge:
    """Take in how requests fared since the last look."""
    if known is None:
        return Knowledge(scene.now, service, scene.ready, scene.now, scene.now)
    seconds = scene.now - known.at
    if seconds <= 0:
        return known
    if service.epoch != known.service.epoch:
        # Somebody counts anew: what happened in between is not known.
        return replace(known, at=scene.now, service=service)
    changed_at = known.changed_at if scene.ready == known.ready else scene.now
    known = replace(known, at=scene.now, age=known.age + seconds, ready=scene.ready, changed_at=changed_at)
    before, known = known.service, replace(known, service=service)
    known = _count(known, service.arrived - before.arrived, service.finished - before.finished, seconds)
    known = _watch(known, service, scene, objective, seconds)
    known = _measure(known, scene, seconds)
    met = None if service.met is None or before.met is None else service.met - before.met
    missed = None if service.missed is None or before.missed is None else service.missed - before.missed
    return known if met is None or missed is None else _steer(known, max(0, met), max(0, missed), scene, objective)


def find_need(known: Knowledge, scene: Scene, *, cold_start: float | None) -> Need | None:
    """Replicas that are needed; None while nobody knows what one carries."""
    if not known.is_known:
        return None
    queued = known.service.queued or 0
    horizon = _CLEARING * max(cold_start or COLD_START, _MINUTE)
    usual = known.expected * _MINUTE / 40
    backlog = max(0.0, scene.held + queued - usual) / (known.carried * horizon)
    now, lasting = (_add_margin(known, rate) for rate in (known.expected, min(known.expected, known.slow)))
    return Need(now / known.carried + backlog, lasting / known.carried + backlog, backlog)


def _add_margin(known: Knowledge, rate: float) -> float:
    """Requests a second to be ready for.

    What jumps up from little jumps as far as it often was, so the margin is of the usual rate where that is higher. A
    larger one than at first is not for more than ever came.
    """
    ready_for = rate + known.margin * max(rate, known.hourly)
    return min(ready_for, max(rate * (1 + min(known.margin, FIRST_MARGIN)), known.peak))


def _count(known: Knowledge, arrived: int, finished: int, seconds: float) -> Knowledge:
    rate = max(0, arrived) / seconds
    served = max(0, finished) / seconds / known.ready if known.ready else known.served
    fast = _blend(known.fast, rate, seconds, _FAST, known.age)
    slow = _blend(known.slow, rate, seconds, _SLOW, known.age)
    return replace(
        known,
        peak=max(slow if known.age > _SLOW else 0.0, known.peak * exp(-seconds / _FADING)),
        fast=fast,
        spread=_blend(known.spread, (fast - slow) ** 2, seconds, _SPREAD, known.age),
        slow=slow,
        lately=_blend(known.lately, rate, seconds, _LATELY, known.age),
        hourly=_blend(known.hourly, rate, seconds, _HOUR, known.age),
        served=_blend(known.served, served, seconds, _SLOW, known.age),
    )


def _watch(known: Knowledge, service: Service, scene: Scene, objective: Objective, seconds: float) -> Knowledge:
    """How busy replicas are."""
    if not scene.ready:
        return replace(known, rough_at=scene.now if scene.held else known.rough_at, is_steered=False)
    per_token, first_token = service.per_token, service.first_token
    queued = service.queued or 0
    is_rough = scene.held > 0 or queued > max(2, scene.ready, known.slow * objective.first_token * 0.3)
    fade = exp(_AGEING * seconds)
    known = replace(
        known,
        rough_at=scene.now if is_rough else known.rough_at,
        is_steered=known.is_steered or (not is_rough and scene.now - known.rough_at > _MINUTE),
        reading=_blend(known.reading, service.reading or 0.0, seconds, _BUSY, known.age),
        kv_usage=_blend(known.kv_usage, service.kv_usage or 0.0, seconds, _BUSY, known.age),
        quickest=_find_best(known.quickest, per_token, fade),
        promptest=_find_best(known.promptest, first_token, fade),
        briefest=_find_best(known.briefest, service.whole, fade),
    )
    return replace(known, busyness=max(_list_busyness(known, objective)))


def _list_busyness(known: Knowledge, objective: Objective) -> list[float]:
    found = [known.kv_usage / _KV_TARGET]
    per_token, first_token = known.service.per_token, known.service.first_token
    if per_token and known.quickest:
        best = _UNSEEN * known.quickest
        # What no replica ever does is out of reach whatever their number: it is not what they are scaled by.
        target = max(objective.per_token / objective.tail**_TAIL, 1.5 * known.quickest)
        load = max(0.0, 1 - best / per_token)
        found.append(load / (1 - best / target))
        if known.kv_usage > 0.02 and load > 0.02:
            # The cache fills faster than load grows, as answers take longer.
            ratio = _KV_TARGET * load / (known.kv_usage * (1 - load))
            found[0] = load * (1 + ratio) / ratio
    if first_token and known.promptest is not None:
        room = max(objective.first_token - known.promptest, objective.first_token * 0.2)
        share = min(known.reading, 0.98)
        wait = max(first_token - known.promptest, 0.02 * objective.first_token) * objective.tail
        odds = room * share / max(wait * (1 - share), 1e-9)
        found.append(share / min(_MOST_READING, max(_LEAST_READING, odds / (1 + odds))))
    whole = known.service.whole
    if whole and known.briefest and not (per_token or first_token):
        best = _UNSEEN * known.briefest
        target = max(1 / objective.tail**_TAIL, 1.5 * known.briefest)
        found.append(max(0.0, 1 - best / whole) / (1 - best / target))
    return found


def _measure(known: Knowledge, scene: Scene, seconds: float) -> Knowledge:
    """What a replica carries, where that shows."""
    if not scene.ready or known.served <= 0:
        return known
    is_even = 0.7 * known.slow < known.fast < 1.4 * known.slow and known.served * scene.ready > 0.7 * known.slow
    if not known.is_rough and is_even and known.busyness > _TELLING:
        capacity, weight = known.served / known.busyness, min(1.0, known.busyness)
    elif known.reading > _SATURATED and scene.now - known.changed_at > _MINUTE:
        capacity, weight = known.served * _SUSTAINED, 1.0
    else:
        return known
    evidence = known.evidence + seconds * weight
    share = min(1.0, seconds * weight / min(_LEARNING, evidence))
    return replace(known, evidence=evidence, capacity=known.capacity + share * (capacity - known.capacity))


def _steer(known: Knowledge, met: int, missed: int, scene: Scene, objective: Objective) -> Knowledge:
    """Answer that the SLO was missed more often, or less often, than it may be.

    Where load is as usual and the replicas should do, they carry less than was thought; otherwise the margin was too
    small. Of what there is too much, the margin goes first.
    """
    if not known.is_known or not known.is_steered or known.hourly <= 0:
        return known
    if missed and scene.loading and known.is_calm:
        # It is being answered.
        return known
    step = _STEERING * (missed - objective.allowed * (met + missed)) / (known.hourly * _STEERING_SECONDS)
    is_overrated = known.is_calm and _can_be_met(known, objective) if step > 0 else known.margin <= LEAST_MARGIN
    if is_overrated:
        return replace(known, overrated=min(MOST_OVERRATED, max(0.0, known.overrated + step)))
    return replace(known, margin=min(MOST_MARGIN, max(LEAST_MARGIN, known.margin + step)))


def _can_be_met(known: Knowledge, objective: Objective) -> bool:
    """Whether replicas were seen to be faster than they have to be: no number of slower ones would do."""
    if known.briefest is not None and known.promptest is None:
        return known.briefest < _EASILY
    return (
        known.quickest is not None
        and known.promptest is not None
        and known.quickest < _EASILY * objective.per_token
        and known.promptest < _EASILY * objective.first_token
    )


def _blend(average: float, value: float, seconds: float, span: float, age: float) -> float:
    """The average over about a span, or over all that there was of it."""
    share = min(1.0, seconds / age) if age < span else 1 - exp(-seconds / span)
    return average + share * (value - average)


def _find_best(best: float | None, value: float | None, fade: float) -> float | None:
    if value is None:
        return best
    return value if best is None else min(best * fade, value)
