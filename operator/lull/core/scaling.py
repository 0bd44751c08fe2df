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

if TYPE_CHECKING:
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
    scale_up_window: float
    scale_down_window: float
    manual: int | None


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    asked: int
    """Replicas that the workload has been asked to have."""
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


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    reason: ScalingReason
    message: str
    history: History


def build_policy(spec: LLMDeploymentSpec) -> Policy:
    scaling, sequences = spec.scaling, spec.engine.max_num_seqs
    derived = DEFAULT_IN_FLIGHT if sequences is None else max(1, sequences * 4 // 5)
    return Policy(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_queue=scaling.target.queue_length,
        target_in_flight=scaling.target.in_flight or derived,
        idle_after=parse_duration(scaling.idle_after),
        scale_up_window=scaling.behavior.scale_up.stabilization_window_seconds,
        scale_down_window=scaling.behavior.scale_down.stabilization_window_seconds,
        manual=spec.replicas,
    )


def decide(
    policy: Policy, demand: Demand | None, replicas: ReplicaCounts, *, history: History | None, now: float
) -> Decision:
    """Replicas to have now, with the reason; `history` is what the decision before this one returned."""
    known = history or _begin(replicas, now)
    if policy.manual is not None:
        message = f"{_arrow(replicas.asked, policy.manual)}: spec.replicas says so"
        return Decision(policy.manual, ScalingReason.MANUAL, message, known)
    if demand is None:
        bounded = _bound(policy, replicas.asked)
        message = f"{_arrow(replicas.asked, bounded)}: no gateway says what is asked for"
        return Decision(bounded, ScalingReason.SIGNAL_MISSING, message, known)

    latest = max((at for at in (known.last_request_at, demand.last_request_at) if at is not None), default=None)
    known = replace(known, last_request_at=now if demand.is_any else latest)
    idle = _is_idle(policy, demand, replicas, known, now)
    recommended = _bound(policy, max(_carry(policy, demand), 0 if idle else 1))
    known = _remember(policy, known, Recommendation(now, recommended))
    chosen, reason = _follow(policy, demand, replicas, known, recommended=recommended, idle=idle)
    return Decision(chosen, reason, _explain(policy, demand, replicas, chosen, reason), known)


def _begin(replicas: ReplicaCounts, now: float) -> History:
    # What runs when nobody remembers why counts as recommended now: a restart must not cut replicas off.
    start = (Recommendation(now, replicas.asked),)
    return History(since=now, last_request_at=None, peaks=start, troughs=start)


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
    peaks = (p for p in history.peaks if p.at > at - policy.scale_down_window and p.replicas > count)
    troughs = (t for t in history.troughs if t.at > at - policy.scale_up_window and t.replicas < count)
    return replace(history, peaks=(*peaks, recommendation), troughs=(*troughs, recommendation))


def _follow(
    policy: Policy,
    demand: Demand,
    replicas: ReplicaCounts,
    history: History,
    *,
    recommended: int,
    idle: bool,
) -> tuple[int, ScalingReason]:
    """The recommendation, held back where time, loading replicas or a missing signal say so."""
    within = _bound(policy, replicas.asked)
    if recommended > replicas.asked:
        return _rise(policy, demand, replicas.asked, history)
    if within < replicas.asked:
        return within, ScalingReason.AT_MAXIMUM
    if recommended == replicas.asked:
        return recommended, _reason_steady(policy, demand, recommended)
    why_not = _find_obstacle(demand, replicas)
    if why_not is not None:
        return replicas.asked, why_not
    if idle:
        # Nobody asked for all of idle_after: that is a window of its own.
        return recommended, ScalingReason.IDLE
    steady = min(replicas.asked, history.peaks[0].replicas)
    return steady, ScalingReason.STABILIZING if steady == replicas.asked else ScalingReason.LOAD_BELOW_TARGET


def _rise(policy: Policy, demand: Demand, asked: int, history: History) -> tuple[int, ScalingReason]:
    within = _bound(policy, asked)
    steady = history.troughs[0].replicas
    if within == 0:
        # Waking is never held back: somebody waits for it. How far up is.
        return max(1, steady), ScalingReason.ACTIVATED
    chosen = max(within, steady)
    return chosen, ScalingReason.STABILIZING if chosen == asked else _reason_up(policy, demand, chosen)


def _find_obstacle(demand: Demand, replicas: ReplicaCounts) -> ScalingReason | None:
    """Why fewer replicas are out of the question now, whatever the load."""
    if replicas.loading:
        # A cold start costs minutes and its requests wait for it; Kubernetes would delete these replicas first.
        return ScalingReason.LOADING
    return None if demand.complete else ScalingReason.SIGNAL_MISSING


def _reason_up(policy: Policy, demand: Demand, chosen: int) -> ScalingReason:
    if _carry(policy, demand) <= policy.min_replicas and chosen == policy.min_replicas:
        return ScalingReason.AT_MINIMUM
    if _for_in_flight(policy, demand) >= _for_queue(policy, demand):
        return ScalingReason.IN_FLIGHT_ABOVE_TARGET
    return ScalingReason.QUEUE_ABOVE_TARGET


def _reason_steady(policy: Policy, demand: Demand, asked: int) -> ScalingReason:
    if _carry(policy, demand) > policy.max_replicas:
        return ScalingReason.AT_MAXIMUM
    if not demand.is_any and asked == policy.min_replicas:
        return ScalingReason.AT_MINIMUM
    return ScalingReason.WITHIN_TARGET


def _explain(policy: Policy, demand: Demand, replicas: ReplicaCounts, chosen: int, reason: ScalingReason) -> str:
    load = f"{demand.held + demand.waiting} waiting and {demand.in_flight} in flight"
    target = f"a target of {policy.target_queue} and {policy.target_in_flight} per replica"
    match reason:
        case ScalingReason.ACTIVATED:
            why = f"{load}, nothing running" if demand.is_any else "a request came and left, nothing running"
        case ScalingReason.QUEUE_ABOVE_TARGET | ScalingReason.IN_FLIGHT_ABOVE_TARGET:
            why = f"{load} over {target}"
        case ScalingReason.LOAD_BELOW_TARGET:
            window = render_duration(policy.scale_down_window)
            why = f"{load}, below {target} for {window}"
        case ScalingReason.IDLE:
            why = f"no request for {render_duration(policy.idle_after)}"
        case ScalingReason.AT_MAXIMUM:
            why = f"{load}; maxReplicas is {policy.max_replicas}"
        case ScalingReason.AT_MINIMUM:
            why = f"{load}; minReplicas is {policy.min_replicas}"
        case ScalingReason.SIGNAL_MISSING:
            why = f"{load}, but not every gateway was heard"
        case _:
            why = f"{load} for {target}"
    return f"{_arrow(replicas.asked, chosen)}: {why}; {replicas.ready} ready, {replicas.loading} loading"


def _arrow(before: int, after: int) -> str:
    return f"{before} → {after}"


def _bound(policy: Policy, replicas: int) -> int:
    return min(max(replicas, policy.min_replicas), policy.max_replicas)
