"""How many replicas one LLMDeployment should have: one pure function for the operator, simulations and tests.

One replica should carry `target_in_flight` requests, and may have `target_queue` more waiting for it. So held
requests do not ask for a replica each: those that the next replica will take at once are no sign that two are
needed, which is what makes ten clients of a sleeping model start one pod and not three.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final

from lull.api.quantities import parse_duration, render_duration
from lull.api.reasons import ScalingReason
from lull.core.pacing import Change, Pace, build_pace, find_least, find_most
from lull.core.placement import find_capacity
from lull.core.schedules import Floor, find_floor

if TYPE_CHECKING:
    from lull.api.scaling import ScheduleSpec
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.signals import Demand

DEFAULT_IN_FLIGHT: Final = 32


@dataclass(frozen=True, slots=True)
class Policy:
    """What the spec says about scaling, in numbers."""

    min_replicas: int
    max_replicas: int
    target_queue: int
    target_in_flight: int
    idle_after: float
    scale_up: Pace
    scale_down: Pace
    schedules: tuple[ScheduleSpec, ...]
    capacity: int | None
    """Most replicas that the pools hold together, where each of them has a limit."""
    manual: int | None


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """Replicas over all pools."""

    asked: int
    """Replicas that the workloads have been asked to have."""
    ready: int
    loading: int
    """Replicas on their way: asked for or created, and not ready."""
    ready_at: float | None
    """When the youngest ready replica became ready."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    at: float
    replicas: int


@dataclass(frozen=True, slots=True)
class History:
    """What one decision leaves for the next."""

    since: float
    last_request_at: float | None
    peaks: tuple[Recommendation, ...]
    """Recommendations that may still hold a scale-down back: times rise, replicas fall."""
    troughs: tuple[Recommendation, ...]
    """Recommendations that may still hold a scale-up back: times rise, replicas rise."""
    changes: tuple[Change, ...]
    """Decisions that the policies of `behavior` may still count."""


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    reason: ScalingReason
    message: str
    history: History
    floor: Floor | None = None
    """The schedule that keeps more than minReplicas now."""


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Between what the count must stay now, and who says so."""

    least: int
    most: int
    floor: Floor | None
    """The schedule that raises `least`."""
    is_full: bool
    """Whether it is the pools that limit `most`."""

    def clamp(self, replicas: int) -> int:
        return min(max(replicas, self.least), self.most)


def build_policy(spec: LLMDeploymentSpec) -> Policy:
    scaling, sequences = spec.scaling, spec.engine.max_num_seqs
    derived = DEFAULT_IN_FLIGHT if sequences is None else max(1, sequences * 4 // 5)
    return Policy(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_queue=scaling.target.queue_length,
        target_in_flight=scaling.target.in_flight or derived,
        idle_after=parse_duration(scaling.idle_after),
        scale_up=build_pace(scaling.behavior.scale_up),
        scale_down=build_pace(scaling.behavior.scale_down),
        schedules=tuple(scaling.schedules),
        capacity=find_capacity(spec.placement),
        manual=spec.replicas,
    )


def decide(
    policy: Policy,
    demand: Demand | None,
    replicas: ReplicaCounts,
    *,
    history: History | None,
    now: float,
    wall: float,
) -> Decision:
    """Replicas to have now, with the reason; `history` is what the decision before this one returned.

    `now` is on a clock that never steps; `wall`, seconds since the Unix epoch, serves schedules and nothing else.
    """
    known = history or _begin(replicas, now)
    if policy.manual is not None:
        return _obey(policy, policy.manual, replicas, known)
    bounds = _find_bounds(policy, wall)
    if demand is None:
        bounded = bounds.clamp(replicas.asked)
        message = f"{_arrow(replicas.asked, bounded)}: no gateway says what is asked for"
        known = _note(policy, known, Change(now, bounded - replicas.asked))
        return Decision(bounded, ScalingReason.SIGNAL_MISSING, message, known, bounds.floor)

    latest = max((at for at in (known.last_request_at, demand.last_request_at) if at is not None), default=None)
    known = replace(known, last_request_at=now if demand.is_any else latest)
    idle = _is_idle(policy, demand, replicas, known, now)
    recommended = bounds.clamp(max(_carry(policy, demand), 0 if idle else 1))
    known = _remember(policy, known, Recommendation(now, recommended))
    wanted, reason = _follow(policy, bounds, demand, replicas, known, recommended=recommended, idle=idle)
    chosen = _pace(policy, bounds, replicas.asked, wanted, known, now)
    known = _note(policy, known, Change(now, chosen - replicas.asked))
    if chosen == wanted:
        why = _explain(policy, bounds, demand, reason)
    else:
        reason = ScalingReason.LIMITED
        why = f"{_explain(policy, bounds, demand, reason)}; {_explain_pace(policy, wanted, chosen)}"
    message = f"{_arrow(replicas.asked, chosen)}: {why}; {replicas.ready} ready, {replicas.loading} loading"
    return Decision(chosen, reason, message, known, bounds.floor)


def _obey(policy: Policy, manual: int, replicas: ReplicaCounts, history: History) -> Decision:
    """What somebody else decided, as far as the pools have room."""
    chosen = manual if policy.capacity is None else min(manual, policy.capacity)
    message = f"{_arrow(replicas.asked, chosen)}: spec.replicas says so"
    if chosen == manual:
        return Decision(chosen, ScalingReason.MANUAL, message, history)
    message = f"{_arrow(replicas.asked, chosen)}: spec.replicas is {manual}; the pools hold {chosen} at most"
    return Decision(chosen, ScalingReason.POOLS_FULL, message, history)


def _find_bounds(policy: Policy, wall: float) -> _Bounds:
    floor = find_floor(policy.schedules, wall)
    most = policy.max_replicas if policy.capacity is None else min(policy.max_replicas, policy.capacity)
    is_raised = floor is not None and floor.replicas > policy.min_replicas
    return _Bounds(
        least=min(floor.replicas if floor is not None and is_raised else policy.min_replicas, most),
        most=most,
        floor=floor if is_raised else None,
        is_full=most < policy.max_replicas,
    )


def _begin(replicas: ReplicaCounts, now: float) -> History:
    # What runs when nobody remembers why counts as recommended now: a restart must not cut replicas off.
    start = (Recommendation(now, replicas.asked),)
    return History(since=now, last_request_at=None, peaks=start, troughs=start, changes=())


def _carry(policy: Policy, demand: Demand) -> int:
    """Replicas that the present demand needs, bounds and time aside."""
    return max(_for_queue(policy, demand), _for_in_flight(policy, demand))


def _for_queue(policy: Policy, demand: Demand) -> int:
    return ceil((demand.held + demand.waiting + demand.in_flight) / (policy.target_queue + policy.target_in_flight))


def _for_in_flight(policy: Policy, demand: Demand) -> int:
    return ceil(demand.in_flight / policy.target_in_flight)


def _is_idle(policy: Policy, demand: Demand, replicas: ReplicaCounts, history: History, now: float) -> bool:
    """Whether nobody has asked for `idle_after`, so that the last replica may go, or need not come."""
    if demand.is_any:
        return False
    if replicas.asked == 0:
        # Asleep: only a request wakes, be it one whose client has left since.
        return history.last_request_at is None or now - history.last_request_at >= policy.idle_after
    # Gateways forget at a restart when the last request was; then the time that we have looked on counts.
    last = history.since if history.last_request_at is None else history.last_request_at
    return now - max(last, replicas.ready_at or last) >= policy.idle_after


def _remember(policy: Policy, history: History, recommendation: Recommendation) -> History:
    """Keep of each window only what can still decide it, so that memory is bounded by the number of replicas."""
    at, count = recommendation.at, recommendation.replicas
    peaks = (p for p in history.peaks if p.at > at - policy.scale_down.window and p.replicas > count)
    troughs = (t for t in history.troughs if t.at > at - policy.scale_up.window and t.replicas < count)
    return replace(history, peaks=(*peaks, recommendation), troughs=(*troughs, recommendation))


def _note(policy: Policy, history: History, change: Change) -> History:
    """Keep the changes that a policy may still count."""
    since = change.at - max(policy.scale_up.memory, policy.scale_down.memory)
    changes = (*history.changes, change) if change.by else history.changes
    return replace(history, changes=tuple(known for known in changes if known.at > since))


def _follow(
    policy: Policy,
    bounds: _Bounds,
    demand: Demand,
    replicas: ReplicaCounts,
    history: History,
    *,
    recommended: int,
    idle: bool,
) -> tuple[int, ScalingReason]:
    """The recommendation, held back where time, loading replicas or a missing signal say so."""
    within = bounds.clamp(replicas.asked)
    if recommended > replicas.asked:
        return _rise(policy, bounds, demand, replicas.asked, history)
    if within < replicas.asked:
        return within, _name_most(bounds)
    if recommended == replicas.asked:
        return recommended, _reason_steady(policy, bounds, demand, recommended)
    why_not = _find_obstacle(demand, replicas)
    if why_not is not None:
        return replicas.asked, why_not
    if idle:
        # Nobody asked for all of idle_after: that is a window of its own.
        return recommended, ScalingReason.IDLE
    steady = min(replicas.asked, history.peaks[0].replicas)
    return steady, ScalingReason.STABILIZING if steady == replicas.asked else ScalingReason.LOAD_BELOW_TARGET


def _rise(policy: Policy, bounds: _Bounds, demand: Demand, asked: int, history: History) -> tuple[int, ScalingReason]:
    within = bounds.clamp(asked)
    steady = history.troughs[0].replicas
    if within == 0:
        # Waking is never held back: somebody waits for it. How far up is.
        return max(1, steady), ScalingReason.ACTIVATED
    chosen = max(within, steady)
    return chosen, ScalingReason.STABILIZING if chosen == asked else _reason_up(policy, bounds, demand, chosen)


def _pace(policy: Policy, bounds: _Bounds, asked: int, wanted: int, history: History, now: float) -> int:
    """What is wanted, as far as `behavior` lets the count change now.

    The bounds go before it, as in autoscaling/v2: a count outside of them is put right at once. So does the first
    replica, for which somebody waits, unless scaleUp is Disabled: then nothing is added whatever waits.
    """
    within = bounds.clamp(asked)
    if wanted > within:
        most = find_most(policy.scale_up, asked, history.changes, now)
        first = 0 if policy.scale_up.is_disabled else 1
        return wanted if most is None else min(wanted, max(most, within, first))
    if wanted < within:
        return max(wanted, min(find_least(policy.scale_down, asked, history.changes, now), within))
    return wanted


def _find_obstacle(demand: Demand, replicas: ReplicaCounts) -> ScalingReason | None:
    """Why fewer replicas are out of the question now, whatever the load."""
    if replicas.loading:
        # A cold start costs minutes and its requests wait for it; Kubernetes would delete these replicas first.
        return ScalingReason.LOADING
    return None if demand.complete else ScalingReason.SIGNAL_MISSING


def _reason_up(policy: Policy, bounds: _Bounds, demand: Demand, chosen: int) -> ScalingReason:
    carried = _carry(policy, demand)
    if carried <= bounds.least and chosen == bounds.least:
        return _name_least(bounds)
    if carried > chosen == bounds.most and bounds.is_full:
        return ScalingReason.POOLS_FULL
    if _for_in_flight(policy, demand) >= _for_queue(policy, demand):
        return ScalingReason.IN_FLIGHT_ABOVE_TARGET
    return ScalingReason.QUEUE_ABOVE_TARGET


def _reason_steady(policy: Policy, bounds: _Bounds, demand: Demand, asked: int) -> ScalingReason:
    if _carry(policy, demand) > bounds.most:
        return _name_most(bounds)
    if not demand.is_any and asked == bounds.least:
        return _name_least(bounds)
    return ScalingReason.WITHIN_TARGET


def _name_least(bounds: _Bounds) -> ScalingReason:
    return ScalingReason.AT_MINIMUM if bounds.floor is None else ScalingReason.SCHEDULED


def _name_most(bounds: _Bounds) -> ScalingReason:
    return ScalingReason.POOLS_FULL if bounds.is_full else ScalingReason.AT_MAXIMUM


def _explain(policy: Policy, bounds: _Bounds, demand: Demand, reason: ScalingReason) -> str:
    load = f"{demand.held + demand.waiting} waiting and {demand.in_flight} in flight"
    target = f"a target of {policy.target_queue} and {policy.target_in_flight} per replica"
    match reason:
        case ScalingReason.ACTIVATED:
            why = f"{load}, nothing running" if demand.is_any else "a request came and left, nothing running"
        case ScalingReason.QUEUE_ABOVE_TARGET | ScalingReason.IN_FLIGHT_ABOVE_TARGET:
            why = f"{load} over {target}"
        case ScalingReason.LOAD_BELOW_TARGET:
            why = f"{load}, below {target} for {render_duration(policy.scale_down.window)}"
        case ScalingReason.IDLE:
            why = f"no request for {render_duration(policy.idle_after)}"
        case ScalingReason.AT_MAXIMUM:
            why = f"{load}; maxReplicas is {bounds.most}"
        case ScalingReason.POOLS_FULL:
            why = f"{load} for {target}; the pools hold {bounds.most} at most"
        case ScalingReason.AT_MINIMUM:
            why = f"{load}; minReplicas is {bounds.least}"
        case ScalingReason.SCHEDULED if bounds.floor is not None:
            why = f'{load}; the schedule "{bounds.floor.cron}" ({bounds.floor.timezone}) keeps {bounds.least}'
        case ScalingReason.SIGNAL_MISSING:
            why = f"{load}, but not every gateway was heard"
        case _:
            why = f"{load} for {target}"
    return why


def _explain_pace(policy: Policy, wanted: int, chosen: int) -> str:
    field, pace = ("scaleUp", policy.scale_up) if wanted > chosen else ("scaleDown", policy.scale_down)
    return f"{wanted} wanted, and behavior.{field} " + ("is Disabled" if pace.is_disabled else "allows no more yet")


def _arrow(before: int, after: int) -> str:
    return f"{before} → {after}"
