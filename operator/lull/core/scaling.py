"""How many replicas one LLMDeployment should have: one pure function for the operator, simulations and tests.

One replica should carry `target_in_flight` requests, and may have `target_queue` more waiting for it. So held
requests do not ask for a replica each: those that the next replica will take at once are no sign that two are
needed, which is what makes ten clients of a sleeping model start one pod and not three.

Where the spec names no target, what replicas carry is learnt (`core.learning`), and takes the target's place as soon
as it is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final

from lull.api.quantities import parse_duration, render_duration
from lull.api.reasons import ScalingReason
from lull.api.scaling import ScalingMode
from lull.core.learning import Knowledge, Need, Objective, Scene, find_need, learn
from lull.core.loading import LONGEST, NONE_UNMADE, Unmade, count_stuck, find_patience, follow_unmade
from lull.core.pacing import Change, Pace, build_pace, find_least, find_most
from lull.core.placement import find_capacity
from lull.core.schedules import Floor, find_floor
from lull.core.signals import find_latest

if TYPE_CHECKING:
    from lull.api.scaling import ScheduleSpec
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.budget import Cap
    from lull.core.forecast import Ahead
    from lull.core.signals import Demand

DEFAULT_IN_FLIGHT: Final = 32
_TOLERANCE: Final = 0.05
"""So little of a replica is not worth one."""


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
    objective: Objective | None = None
    """What replicas are to be learnt about; None where the target is as the spec says."""
    cold_start: float | None = None
    """Seconds that the last one took."""
    cap: Cap | None = None
    """What the budget pays for."""
    woken_at: float | None = None
    """When somebody last asked for it to be awake, other than by a request."""
    ahead: Ahead | None = None
    """What earlier days ask for."""
    is_shadow: bool = False
    patience: float = LONGEST
    """Seconds after which a replica that is not ready is stuck."""


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
    made_at: tuple[float, ...] = ()
    """When those of the loading replicas that have pods got them."""
    stuck: int = 0
    """Replicas that were on their way for too long: they are not ready, and not among those that load."""

    @property
    def loading_since(self) -> float | None:
        """When the youngest loading replica was created; None where none is, or nobody knows."""
        return max(self.made_at, default=None)

    @property
    def paid(self) -> int:
        """Replicas that cost: what is there does, be it more than was asked for."""
        return max(self.asked, self.ready + self.loading)


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
    knowledge: Knowledge | None = None
    unmade: Unmade = NONE_UNMADE


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    reason: ScalingReason
    message: str
    history: History
    floor: Floor | None = None
    """The schedule that keeps more than minReplicas now."""
    proposed: int | None = None
    """What would have been decided, were it not for Shadow."""
    wanted: int | None = None
    """What demand asks for within the bounds, whatever time and pace make of it; None where it is not known."""
    least: int | None = None
    most: int | None = None
    """The bounds; None where somebody else decides."""
    stuck: int = 0
    """Replicas that were on their way for too long, and count for nothing."""


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Between what the count must stay now, and who says so."""

    least: int
    most: int
    floor: Floor | None
    """The schedule that raises `least`."""
    limit: ScalingReason
    """Who says `most`."""
    ahead: Ahead | None = None
    """The forecast that raises `least`."""

    def clamp(self, replicas: int) -> int:
        return min(max(replicas, self.least), self.most)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What demand asks for, time aside."""

    up: int
    """Replicas to have now."""
    keep: int
    """Replicas not to go below."""
    need: Need | None
    """Where `up` and `keep` come from; None where they come from the target."""


def find_target(spec: LLMDeploymentSpec) -> int:
    """Requests in flight per replica, as long as nothing was learnt of it."""
    sequences = spec.engine.max_num_seqs
    derived = DEFAULT_IN_FLIGHT if sequences is None else max(1, sequences * 4 // 5)
    return spec.scaling.target.in_flight or derived


def build_policy(
    spec: LLMDeploymentSpec, *, cold_start: float | None = None, cap: Cap | None = None, ahead: Ahead | None = None
) -> Policy:
    scaling = spec.scaling
    return Policy(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_queue=scaling.target.queue_length,
        target_in_flight=find_target(spec),
        idle_after=parse_duration(scaling.idle_after),
        scale_up=build_pace(scaling.behavior.scale_up),
        scale_down=build_pace(scaling.behavior.scale_down, cold_start=cold_start),
        schedules=tuple(scaling.schedules),
        capacity=find_capacity(spec.placement),
        manual=spec.replicas,
        objective=None
        if scaling.target.in_flight is not None
        else Objective(
            parse_duration(spec.slo.time_to_first_token),
            parse_duration(spec.slo.time_per_output_token),
            spec.slo.percentile,
        ),
        cold_start=cold_start,
        cap=cap,
        ahead=ahead,
        is_shadow=scaling.mode is ScalingMode.SHADOW,
        patience=find_patience(cold_start),
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
    if policy.is_shadow:
        return _shadow(policy, demand, replicas, history=history, now=now, wall=wall)
    known = history or begin(replicas, now)
    known, replicas = _leave_out_stuck(policy, replicas, known, now)
    decision = _decide(policy, demand, replicas, known, now=now, wall=wall)
    return replace(decision, stuck=replicas.stuck)


def _decide(
    policy: Policy, demand: Demand | None, replicas: ReplicaCounts, known: History, *, now: float, wall: float
) -> Decision:
    if policy.manual is not None:
        return _obey(policy, policy.manual, replicas, known)
    bounds = _find_bounds(policy, wall)
    if demand is None:
        return _decide_blindly(policy, bounds, replicas, known, now)

    known = replace(
        known,
        last_request_at=now
        if demand.is_any
        else find_latest(known.last_request_at, demand.last_request_at, policy.woken_at),
        knowledge=_learn(policy, demand, replicas, known, now),
    )
    idle = _is_idle(policy, demand, replicas, known, now)
    # What was learnt of the last hour keeps nobody awake for whom nobody has asked since.
    wish = _Wish(0, 0, None) if idle else _wish(policy, demand, replicas, known, now)
    least = 0 if idle else 1
    recommended, kept = bounds.clamp(max(wish.up, least)), bounds.clamp(max(wish.keep, least))
    known = _remember(policy, known, Recommendation(now, recommended), kept=min(kept, recommended))
    load = _Load(demand, wish, known.knowledge)
    wanted, reason = _follow(policy, bounds, load, replicas, known, recommended=recommended, idle=idle)
    chosen = _pace(policy, bounds, replicas.asked, wanted, known, now)
    known = _note(policy, known, Change(now, chosen - replicas.asked))
    if chosen == wanted:
        why = _explain(policy, bounds, load, reason)
    else:
        reason = ScalingReason.LIMITED
        why = f"{_explain(policy, bounds, load, reason)}; {_explain_pace(policy, wanted, chosen)}"
    message = f"{_arrow(replicas.asked, chosen)}: {why}; {_describe_replicas(policy, replicas, chosen, now)}"
    return Decision(
        chosen, reason, message, known, bounds.floor, wanted=recommended, least=bounds.least, most=bounds.most
    )


@dataclass(frozen=True, slots=True)
class _Load:
    """Demand, what it comes to in replicas, and how that is known."""

    demand: Demand
    wish: _Wish
    knowledge: Knowledge | None


def _shadow(
    policy: Policy,
    demand: Demand | None,
    replicas: ReplicaCounts,
    *,
    history: History | None,
    now: float,
    wall: float,
) -> Decision:
    """What would be decided, while the replicas stay as they are, or as spec.replicas says."""
    active = replace(policy, is_shadow=False, manual=None)
    would = decide(active, demand, replicas, history=history, now=now, wall=wall)
    # What was not carried out is no change that the policies of `behavior` could count.
    known = replace(would.history, changes=history.changes if history is not None else ())
    kept = replicas.asked if policy.manual is None else _obey(policy, policy.manual, replicas, known).replicas
    message = f"{_arrow(replicas.asked, kept)}: Shadow; {would.reason} would make it {would.message}"
    return replace(
        would, replicas=kept, reason=ScalingReason.SHADOW, message=message, history=known, proposed=would.replicas
    )


def _obey(policy: Policy, manual: int, replicas: ReplicaCounts, history: History) -> Decision:
    """What somebody else decided, as far as the pools have room and the budget pays for it."""
    most, reason = _find_most(policy, manual)
    message = f"{_arrow(replicas.asked, most)}: spec.replicas says so"
    if most == manual:
        return Decision(most, ScalingReason.MANUAL, message, history)
    limit = _explain_most(policy, most, reason)
    message = f"{_arrow(replicas.asked, most)}: spec.replicas is {manual}; {limit}"
    return Decision(most, reason, message, history)


def _find_most(policy: Policy, wanted: int) -> tuple[int, ScalingReason]:
    """The most that there may be, up to a number, and who says so."""
    most, reason = wanted, ScalingReason.AT_MAXIMUM
    if policy.capacity is not None and policy.capacity < most:
        most, reason = policy.capacity, ScalingReason.POOLS_FULL
    if policy.cap is not None and policy.cap.replicas < most:
        most, reason = policy.cap.replicas, ScalingReason.AT_BUDGET
    return most, reason


def _find_bounds(policy: Policy, wall: float) -> _Bounds:
    floor = find_floor(policy.schedules, wall, ahead=policy.cold_start or 0.0)
    most, limit = _find_most(policy, policy.max_replicas)
    is_raised = floor is not None and floor.replicas > policy.min_replicas
    least = floor.replicas if floor is not None and is_raised else policy.min_replicas
    ahead = policy.ahead if policy.ahead is not None and policy.ahead.replicas > least else None
    return _Bounds(
        least=min(least if ahead is None else ahead.replicas, most),
        most=most,
        floor=floor if is_raised else None,
        limit=limit,
        ahead=ahead,
    )


def begin(replicas: ReplicaCounts, now: float, *, knowledge: Knowledge | None = None) -> History:
    """The history where nobody remembers any; what was learnt may have been kept elsewhere."""
    # What runs when nobody remembers why counts as recommended now: a restart must not cut replicas off.
    start = (Recommendation(now, replicas.asked),)
    return History(now, last_request_at=None, peaks=start, troughs=start, changes=(), knowledge=knowledge)


def _leave_out_stuck(
    policy: Policy, replicas: ReplicaCounts, history: History, now: float
) -> tuple[History, ReplicaCounts]:
    """What has been on its way for too long is no capacity to come, and keeps nothing from going."""
    unmade = follow_unmade(history.unmade, max(0, replicas.loading - len(replicas.made_at)), now)
    stuck = min(replicas.loading, count_stuck(replicas.made_at, unmade, patience=policy.patience, now=now))
    return replace(history, unmade=unmade), replace(replicas, loading=replicas.loading - stuck, stuck=stuck)


def _learn(policy: Policy, demand: Demand, replicas: ReplicaCounts, history: History, now: float) -> Knowledge | None:
    # What only some gateways say is neither all that arrived nor all that was answered.
    if policy.objective is None or demand.service is None or not demand.complete:
        return history.knowledge if policy.objective is not None else None
    scene = Scene(now, replicas.ready, demand.held, replicas.loading)
    return learn(history.knowledge, demand.service, scene, policy.objective)


def _wish(policy: Policy, demand: Demand, replicas: ReplicaCounts, history: History, now: float) -> _Wish:
    """Replicas that demand needs, bounds and time aside."""
    knowledge = history.knowledge
    carried = max(_for_queue(policy, demand), _for_in_flight(policy, demand))
    if knowledge is not None and knowledge.at == now:
        scene = Scene(now, replicas.ready, demand.held)
        need = find_need(knowledge, scene, cold_start=policy.cold_start)
        if need is not None:
            # What came past the gateways and goes on for long is in no rate yet.
            beyond = ceil(demand.waiting / policy.target_in_flight)
            up = max(_round_up(need.now), beyond)
            if knowledge.busyness > 1 and not replicas.loading:
                # Whatever was learnt, replicas are too busy at present.
                up = max(up, replicas.ready + 1)
            return _Wish(up, min(up, max(_round_up(need.lasting), beyond)), need)
        if knowledge.is_rough:
            # They have too much to do, however little the target makes of it.
            carried = max(carried, replicas.ready + replicas.loading)
    return _Wish(carried, carried, None)


def _round_up(need: float) -> int:
    return ceil(need - _TOLERANCE)


def _for_queue(policy: Policy, demand: Demand) -> int:
    return ceil((demand.held + demand.waiting + demand.in_flight) / (policy.target_queue + policy.target_in_flight))


def _for_in_flight(policy: Policy, demand: Demand) -> int:
    return ceil(demand.in_flight / policy.target_in_flight)


def _decide_blindly(policy: Policy, bounds: _Bounds, replicas: ReplicaCounts, history: History, now: float) -> Decision:
    """What there is within the bounds, while no gateway says what is asked for; and one where somebody woke it."""
    bounded = bounds.clamp(max(replicas.asked, 1) if _is_woken(policy, replicas, now) else replicas.asked)
    reason, why = ScalingReason.SIGNAL_MISSING, "no gateway says what is asked for"
    if bounded > replicas.asked == 0 == bounds.least:
        reason, why = ScalingReason.WOKEN, f"woken by lull wake; {why}"
    message = f"{_arrow(replicas.asked, bounded)}: {why}"
    history = _note(policy, history, Change(now, bounded - replicas.asked))
    return Decision(bounded, reason, message, history, bounds.floor, least=bounds.least, most=bounds.most)


def _is_woken(policy: Policy, replicas: ReplicaCounts, now: float) -> bool:
    """Whether nothing runs and somebody asked for that to change of late, as a request would have."""
    is_of_late = policy.woken_at is not None and now - policy.woken_at < policy.idle_after
    return is_of_late and replicas.asked == 0 and not policy.scale_up.is_disabled


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


def _remember(policy: Policy, history: History, recommendation: Recommendation, *, kept: int) -> History:
    """Keep of each window only what can still decide it, so that memory is bounded by the number of replicas."""
    at, count = recommendation.at, recommendation.replicas
    peaks = (p for p in history.peaks if p.at > at - policy.scale_down.window and p.replicas > kept)
    troughs = (t for t in history.troughs if t.at > at - policy.scale_up.window and t.replicas < count)
    return replace(history, peaks=(*peaks, Recommendation(at, kept)), troughs=(*troughs, recommendation))


def _note(policy: Policy, history: History, change: Change) -> History:
    """Keep the changes that a policy may still count."""
    since = change.at - max(policy.scale_up.memory, policy.scale_down.memory)
    changes = (*history.changes, change) if change.by else history.changes
    return replace(history, changes=tuple(known for known in changes if known.at > since))


def _follow(
    policy: Policy,
    bounds: _Bounds,
    load: _Load,
    replicas: ReplicaCounts,
    history: History,
    *,
    recommended: int,
    idle: bool,
) -> tuple[int, ScalingReason]:
    """The recommendation, held back where time, loading replicas or a missing signal say so."""
    within = bounds.clamp(replicas.asked)
    if recommended > replicas.asked:
        return _rise(policy, bounds, load, replicas.asked, history)
    if within < replicas.asked:
        return within, bounds.limit
    if recommended == replicas.asked:
        return recommended, _reason_steady(bounds, load, recommended)
    why_not = _find_obstacle(load.demand, replicas)
    if why_not is not None:
        return replicas.asked, why_not
    if idle:
        # Nobody asked for all of idle_after: that is a window of its own.
        return recommended, ScalingReason.IDLE
    steady = max(recommended, min(replicas.asked, history.peaks[0].replicas))
    return steady, ScalingReason.STABILIZING if steady == replicas.asked else ScalingReason.LOAD_BELOW_TARGET


def _rise(policy: Policy, bounds: _Bounds, load: _Load, asked: int, history: History) -> tuple[int, ScalingReason]:
    within = bounds.clamp(asked)
    steady = history.troughs[0].replicas
    if within == 0:
        # Waking is never held back: somebody waits for it. How far up is.
        is_woken = not load.demand.is_any and history.last_request_at == policy.woken_at
        return max(1, steady), ScalingReason.WOKEN if is_woken else ScalingReason.ACTIVATED
    chosen = max(within, steady)
    return chosen, ScalingReason.STABILIZING if chosen == asked else _reason_up(policy, bounds, load, chosen)


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


def _reason_up(policy: Policy, bounds: _Bounds, load: _Load, chosen: int) -> ScalingReason:
    carried = load.wish.up
    if carried <= bounds.least and chosen == bounds.least:
        return _name_least(bounds)
    if carried > chosen == bounds.most and bounds.limit is not ScalingReason.AT_MAXIMUM:
        return bounds.limit
    need = load.wish.need
    if need is not None:
        return (
            ScalingReason.QUEUE_ABOVE_TARGET
            if _round_up(need.now - need.backlog) < chosen <= _round_up(need.now)
            else ScalingReason.RATE_ABOVE_CAPACITY
        )
    if _for_in_flight(policy, load.demand) >= _for_queue(policy, load.demand):
        return ScalingReason.IN_FLIGHT_ABOVE_TARGET
    return ScalingReason.QUEUE_ABOVE_TARGET


def _reason_steady(bounds: _Bounds, load: _Load, asked: int) -> ScalingReason:
    if load.wish.up > bounds.most:
        return bounds.limit
    if not load.demand.is_any and asked == bounds.least:
        return _name_least(bounds)
    return ScalingReason.WITHIN_TARGET


def _name_least(bounds: _Bounds) -> ScalingReason:
    if bounds.ahead is not None:
        return ScalingReason.FORECAST
    return ScalingReason.AT_MINIMUM if bounds.floor is None else ScalingReason.SCHEDULED


def _explain(policy: Policy, bounds: _Bounds, load: _Load, reason: ScalingReason) -> str:
    demand = load.demand
    asked = f"{demand.held + demand.waiting} waiting and {demand.in_flight} in flight"
    target = _describe_target(policy, load)
    match reason:
        case ScalingReason.ACTIVATED:
            why = f"{asked}, nothing running" if demand.is_any else "a request came and left, nothing running"
        case ScalingReason.WOKEN:
            why = "woken by lull wake, nothing running"
        case (
            ScalingReason.QUEUE_ABOVE_TARGET | ScalingReason.IN_FLIGHT_ABOVE_TARGET | ScalingReason.RATE_ABOVE_CAPACITY
        ):
            why = f"{asked} over {target}"
        case ScalingReason.LOAD_BELOW_TARGET:
            why = f"{asked}, below {target} for {render_duration(policy.scale_down.window)}"
        case ScalingReason.IDLE:
            why = f"no request for {render_duration(policy.idle_after)}"
        case ScalingReason.AT_MAXIMUM | ScalingReason.POOLS_FULL | ScalingReason.AT_BUDGET:
            why = f"{asked} for {target}; {_explain_most(policy, bounds.most, reason)}"
        case ScalingReason.AT_MINIMUM | ScalingReason.SCHEDULED | ScalingReason.FORECAST:
            why = f"{asked}; {_explain_least(bounds)}"
        case ScalingReason.SIGNAL_MISSING:
            why = f"{asked}, but not every gateway and engine was heard"
        case _:
            why = f"{asked} for {target}"
    return why


def _explain_least(bounds: _Bounds) -> str:
    if bounds.ahead is not None:
        return f"{bounds.ahead.message}, which keeps {bounds.least}"
    if bounds.floor is None:
        return f"minReplicas is {bounds.least}"
    begins = f" begins in {render_duration(bounds.floor.begins_in)} and" if bounds.floor.begins_in else ""
    return f'the schedule "{bounds.floor.cron}" ({bounds.floor.timezone}){begins} keeps {bounds.least}'


def _explain_most(policy: Policy, most: int, limit: ScalingReason) -> str:
    if limit is ScalingReason.AT_BUDGET and policy.cap is not None:
        return policy.cap.message
    return f"the pools hold {most} at most" if limit is ScalingReason.POOLS_FULL else f"maxReplicas is {most}"


def _describe_target(policy: Policy, load: _Load) -> str:
    """What a replica is to carry."""
    knowledge = load.knowledge
    if load.wish.need is None or knowledge is None:
        return f"a target of {policy.target_queue} and {policy.target_in_flight} per replica"
    return (
        f"{knowledge.carried:.3g} requests/s per replica, of which {knowledge.expected:.3g} come, "
        f"and a margin of {knowledge.margin:.2f}"
    )


def _describe_replicas(policy: Policy, replicas: ReplicaCounts, chosen: int, now: float) -> str:
    """What there is once the decision is carried out, and about when all of it is ready."""
    more = max(0, chosen - replicas.asked)
    said = f"{replicas.ready} ready, {replicas.loading + more} loading"
    if replicas.stuck:
        said += f", {replicas.stuck} not ready for {render_duration(policy.patience)}"
    since = now if more else replicas.loading_since
    if policy.cold_start is None or since is None or not replicas.loading + more:
        return said
    left = since + policy.cold_start - now
    return f"{said}, ready in about {render_duration(round(left))}" if left >= 1 else f"{said}, ready any moment"


def _explain_pace(policy: Policy, wanted: int, chosen: int) -> str:
    field, pace = ("scaleUp", policy.scale_up) if wanted > chosen else ("scaleDown", policy.scale_down)
    return f"{wanted} wanted, and behavior.{field} " + ("is Disabled" if pace.is_disabled else "allows no more yet")


def _arrow(before: int, after: int) -> str:
    return f"{before} → {after}"
