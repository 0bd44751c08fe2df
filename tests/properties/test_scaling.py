"""Laws of scaling: whatever the demand does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from lull.api.reasons import ScalingReason
from lull.api.scaling import PolicyType, ScalingPolicy, ScheduleSpec, SelectPolicy
from lull.api.spec import LLMDeploymentSpec
from lull.core.budget import Cap
from lull.core.forecast import Ahead
from lull.core.learning import Objective
from lull.core.pacing import Pace
from lull.core.scaling import Decision, History, Policy, ReplicaCounts, build_policy, decide
from lull.core.schedules import find_floor
from lull.core.signals import Demand, Service

paces = st.builds(
    Pace,
    st.integers(0, 20).map(float),
    st.sampled_from([SelectPolicy.MAX, SelectPolicy.MIN]),
    st.lists(
        st.builds(
            lambda kind, value, period: ScalingPolicy(type=kind, value=value, period_seconds=period),
            st.sampled_from(PolicyType),
            st.integers(1, 50),
            st.integers(1, 9),
        ),
        max_size=2,
    ).map(tuple),
)
schedules = st.builds(
    lambda cron, replicas: ScheduleSpec(cron=cron, duration="1m", min_replicas=replicas),
    st.sampled_from(["* * * * *", "*/2 * * * *", "0 8 * * 1-5"]),
    st.integers(1, 20),
)
policies = st.builds(
    lambda least, more, queue, flight, idle, up, down, daily, capacity: Policy(
        min_replicas=least,
        max_replicas=max(least + more, 1),
        target_queue=queue,
        target_in_flight=flight,
        idle_after=float(idle),
        scale_up=up,
        scale_down=down,
        schedules=tuple(daily),
        capacity=capacity,
        manual=None,
    ),
    st.integers(0, 5),
    st.integers(0, 20),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(0, 100),
    paces,
    paces,
    st.lists(schedules, max_size=2),
    st.none() | st.integers(1, 20),
)
MONDAY = datetime(2026, 11, 23, 7, 59, 30, tzinfo=UTC).timestamp()
loads = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 200)), min_size=1, max_size=60)


def demand(held: int, in_flight: int, *, last: float | None = None) -> Demand:
    return Demand(held=held, in_flight=in_flight, waiting=0, last_request_at=last, complete=True)


def counts(asked: int, *, loading: int = 0, ready_at: float | None = None) -> ReplicaCounts:
    return ReplicaCounts(asked=asked, ready=asked - loading, loading=loading, ready_at=ready_at)


def run(policy: Policy, load: list[tuple[int, int]], *, start: int = 0, loading: bool = False) -> list[Decision]:
    """One decision a second; every replica is ready, or loading, at once."""
    decisions: list[Decision] = []
    asked, history = min(policy.min_replicas, most(policy)), None
    for second, (held, in_flight) in enumerate(load):
        replicas = counts(asked, loading=asked if loading else 0)
        decision = decide(
            policy,
            demand(held, in_flight),
            replicas,
            history=history,
            now=float(start + second),
            wall=MONDAY + second,
        )
        decisions.append(decision)
        asked, history = decision.replicas, decision.history
    return decisions


def most(policy: Policy) -> int:
    return policy.max_replicas if policy.capacity is None else min(policy.max_replicas, policy.capacity)


def outcomes(decisions: list[Decision]) -> list[tuple[int, ScalingReason, str]]:
    return [(decision.replicas, decision.reason, decision.message) for decision in decisions]


@given(policies, loads)
def test_stays_within_bounds(policy: Policy, load: list[tuple[int, int]]) -> None:
    least = min(policy.min_replicas, most(policy))

    assert all(least <= decision.replicas <= most(policy) for decision in run(policy, load))


@given(policies, loads, st.integers(1, 10**6))
def test_reads_no_clock_of_its_own(policy: Policy, load: list[tuple[int, int]], shift: int) -> None:
    assert outcomes(run(policy, load)) == outcomes(run(policy, load, start=shift))


@given(policies, st.integers(0, 60), st.integers(0, 200), st.integers(0, 60), st.integers(0, 200), st.integers(0, 25))
def test_more_demand_never_means_fewer_replicas(
    policy: Policy, held: int, in_flight: int, more_held: int, more_in_flight: int, asked: int
) -> None:
    less = decide(policy, demand(held, in_flight), counts(asked), history=None, now=0.0, wall=MONDAY)

    more = decide(
        policy, demand(held + more_held, in_flight + more_in_flight), counts(asked), history=None, now=0.0, wall=MONDAY
    )

    assert more.replicas >= less.replicas


@given(policies, st.integers(0, 60), st.integers(0, 200))
def test_settles_under_constant_load(policy: Policy, held: int, in_flight: int) -> None:
    unscheduled = replace(policy, schedules=())
    windows = int(policy.scale_up.window + policy.scale_down.window)
    periods = int(max(policy.scale_up.memory, policy.scale_down.memory)) * policy.max_replicas
    steps = int(policy.idle_after) + windows + periods + 5

    replicas = [decision.replicas for decision in run(unscheduled, [(held, in_flight)] * (steps + 10))]

    assert len(set(replicas[steps:])) == 1
    assert replicas == sorted(replicas)


@given(policies, loads)
def test_never_goes_down_while_replicas_load(policy: Policy, load: list[tuple[int, int]]) -> None:
    replicas = [decision.replicas for decision in run(policy, load, loading=True)]

    assert replicas == sorted(replicas)


@given(policies, loads, st.integers(0, 40), st.booleans())
def test_waits_for_what_loads_as_long_as_it_may_take_and_not_for_ever(
    policy: Policy, load: list[tuple[int, int]], patience: int, has_pods: bool
) -> None:
    impatient = replace(policy, min_replicas=0, schedules=(), patience=float(patience))
    windows = int(impatient.scale_up.window + impatient.scale_down.window + impatient.idle_after) + patience
    periods = int(max(impatient.scale_up.memory, impatient.scale_down.memory)) * most(impatient)
    asked, raised_at, history = 0, 0, None
    made_at: tuple[float, ...] = ()
    for second, (held, in_flight) in enumerate([*load, *[(0, 0)] * (windows + periods + 5)]):
        made_at = (*made_at, *[float(second)] * (asked - len(made_at)))[:asked]
        replicas = replace(counts(asked, loading=asked), made_at=made_at if has_pods else ())

        decision = decide(impatient, demand(held, in_flight), replicas, history=history, now=float(second), wall=MONDAY)

        assert decision.replicas >= asked or second - raised_at > patience
        raised_at = second if decision.replicas > asked else raised_at
        asked, history = decision.replicas, decision.history
    assert asked == 0


@given(policies, loads)
def test_keeps_a_replica_for_whoever_asks(policy: Policy, load: list[tuple[int, int]]) -> None:
    decisions = run(policy, load)

    assert all(
        decision.replicas >= 1 for decision, asked in zip(decisions, load, strict=True) if asked[0] + asked[1] > 0
    )


@given(policies, st.integers(1, 20), st.integers(0, 200), st.integers(0, 200))
def test_sleeps_only_after_idle_after(policy: Policy, asked: int, quiet: int, ready: int) -> None:
    sleepy = replace(
        policy,
        min_replicas=0,
        max_replicas=max(policy.max_replicas, asked),
        scale_down=Pace(0.0, SelectPolicy.MAX, ()),
        schedules=(),
        capacity=None,
    )
    history = History(since=-1000.0, last_request_at=0.0, peaks=(), troughs=(), changes=())
    youngest = counts(asked, ready_at=float(ready))

    decision = decide(sleepy, demand(0, 0), youngest, history=history, now=float(ready + quiet), wall=MONDAY)

    assert (decision.replicas == 0) == (quiet >= sleepy.idle_after)


@given(policies, loads)
def test_remembers_no_more_than_there_can_be_replicas(policy: Policy, load: list[tuple[int, int]]) -> None:
    history = run(policy, load)[-1].history

    assert len(history.peaks) <= policy.max_replicas + 1
    assert len(history.troughs) <= policy.max_replicas + 1
    assert len(history.changes) <= max(policy.scale_up.memory, policy.scale_down.memory)


@given(policies, st.integers(0, 30))
def test_holds_what_is_there_without_a_signal(policy: Policy, asked: int) -> None:
    unscheduled = replace(policy, schedules=())

    decision = decide(unscheduled, None, counts(asked), history=None, now=0.0, wall=MONDAY)

    assert decision.replicas == min(max(asked, policy.min_replicas), most(policy))
    assert decision.reason is ScalingReason.SIGNAL_MISSING


@given(policies, loads)
def test_keeps_what_schedules_ask_for(policy: Policy, load: list[tuple[int, int]]) -> None:
    floors = [find_floor(policy.schedules, MONDAY + second) for second in range(len(load))]
    asked = [min(floor.replicas if floor else 0, most(policy)) for floor in floors]

    assert all(decision.replicas >= floor for decision, floor in zip(run(policy, load), asked, strict=True))


@given(policies, loads, st.integers(1, 5), st.integers(1, 9))
def test_changes_no_faster_than_a_policy_allows(
    policy: Policy, load: list[tuple[int, int]], value: int, period: int
) -> None:
    pods = ScalingPolicy(type=PolicyType.PODS, value=value, period_seconds=period)
    pace = Pace(0.0, SelectPolicy.MAX, (pods,))
    slow = replace(policy, min_replicas=1, scale_up=pace, scale_down=pace, schedules=())

    replicas = [1, *(decision.replicas for decision in run(slow, load))]

    for second in range(1, len(replicas)):
        start, before, after = replicas[max(second - period, 0)], replicas[second - 1], replicas[second]
        assert min(start - value, before) <= after <= max(start + value, before)


OBJECTIVE = Objective(first_token=3.0, per_token=0.1, percentile=99)
learning = policies.map(lambda policy: replace(policy, objective=OBJECTIVE, cold_start=10.0))
moments = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.integers(0, 200),
        st.integers(0, 40),
        st.booleans(),
        st.floats(0, 1),
        st.floats(0, 1),
        st.none() | st.floats(0.01, 60),
        st.none() | st.floats(0.001, 1),
    ),
    min_size=1,
    max_size=80,
)
Moment = tuple[int, int, int, bool, float, float, float | None, float | None]


def run_learning(policy: Policy, load: list[Moment], *, start: int = 0, loading: bool = False) -> list[Decision]:
    """One decision a second, on gateways that say how requests fare."""
    decisions: list[Decision] = []
    asked, history, arrived, finished, missed = min(policy.min_replicas, most(policy)), None, 0, 0, 0
    for second, (held, in_flight, came, was_missed, reading, kv_usage, first_token, per_token) in enumerate(load):
        arrived, finished, missed = arrived + came, finished + came, missed + (came if was_missed else 0)
        service = Service(
            arrived=arrived,
            finished=finished,
            met=finished - missed,
            missed=missed,
            queued=in_flight // 2,
            reading=reading,
            kv_usage=kv_usage,
            first_token=first_token,
            per_token=per_token,
        )
        decision = decide(
            policy,
            replace(demand(held, in_flight), service=service),
            counts(asked, loading=asked if loading else 0),
            history=history,
            now=float(start + second),
            wall=MONDAY + second,
        )
        decisions.append(decision)
        asked, history = decision.replicas, decision.history
    return decisions


def steady(rate: int, busy: float, in_flight: int) -> list[Moment]:
    return [(0, in_flight, rate, False, busy / 2, busy, 0.5, 0.02)] * 1000


@given(learning, moments)
def test_stays_within_bounds_whatever_it_learns(policy: Policy, load: list[Moment]) -> None:
    least = min(policy.min_replicas, most(policy))

    assert all(least <= decision.replicas <= most(policy) for decision in run_learning(policy, load))


@given(learning, moments, st.integers(1, 10**4))
def test_learns_the_same_at_any_time(policy: Policy, load: list[Moment], shift: int) -> None:
    shifted = run_learning(policy, load, start=shift)

    assert [one.replicas for one in run_learning(policy, load)] == [one.replicas for one in shifted]


@given(learning, moments)
def test_never_goes_down_while_replicas_load_whatever_it_learns(policy: Policy, load: list[Moment]) -> None:
    replicas = [decision.replicas for decision in run_learning(policy, load, loading=True)]

    assert replicas == sorted(replicas)


@settings(max_examples=20)
@given(st.integers(1, 30), st.floats(0.2, 0.8), st.integers(1, 60))
def test_settles_under_constant_load_whatever_it_learns(rate: int, busy: float, in_flight: int) -> None:
    spec = LLMDeploymentSpec.model_validate(
        {"model": {"source": "hf://org/name"}, "scaling": {"minReplicas": 1, "maxReplicas": 1000}}
    )

    replicas = [one.replicas for one in run_learning(build_policy(spec), steady(rate, busy, in_flight))]

    # The margin is on its way down while nothing is missed.
    assert replicas[700:] == sorted(replicas[700:], reverse=True)


@given(policies, loads, st.integers(0, 20))
def test_never_has_more_than_the_budget_pays_for(policy: Policy, load: list[tuple[int, int]], paid: int) -> None:
    capped = replace(policy, cap=Cap(paid, "it pays for so many"))

    assert all(decision.replicas <= paid for decision in run(capped, load))


@given(policies, loads, st.integers(0, 9), st.none() | st.integers(0, 9))
def test_shadow_never_acts(policy: Policy, load: list[tuple[int, int]], asked: int, manual: int | None) -> None:
    shadow, history = replace(policy, is_shadow=True, manual=manual, capacity=None), None
    for second, (held, in_flight) in enumerate(load):
        decision = decide(
            shadow, demand(held, in_flight), counts(asked), history=history, now=float(second), wall=MONDAY + second
        )
        history = decision.history

        assert decision.replicas == (asked if manual is None else manual)
        assert decision.reason is ScalingReason.SHADOW


@given(policies, st.integers(0, 60), st.integers(0, 200), st.integers(0, 20))
def test_shadow_proposes_what_active_would_decide(policy: Policy, held: int, in_flight: int, asked: int) -> None:
    active = decide(policy, demand(held, in_flight), counts(asked), history=None, now=0.0, wall=MONDAY)

    shadow = decide(
        replace(policy, is_shadow=True), demand(held, in_flight), counts(asked), history=None, now=0.0, wall=MONDAY
    )

    assert shadow.proposed == active.replicas


@given(policies, st.integers(0, 40), st.booleans())
def test_a_wake_wakes_once_and_what_it_woke_falls_asleep_again(policy: Policy, cold_start: int, heard: bool) -> None:
    sleeping = replace(policy, min_replicas=0, schedules=(), idle_after=policy.idle_after + 1, woken_at=0.0)
    steps = 2 * (int(sleeping.idle_after) + cold_start) + 60
    asked, seen, history = 0, [], None
    for second in range(steps):
        is_ready = asked > 0 and second > cold_start
        replicas = counts(asked, loading=0 if is_ready else asked, ready_at=cold_start + 1.0 if is_ready else None)
        # Without a gateway nothing is taken away, so one is heard again once it has started.
        said = demand(0, 0) if heard or is_ready else None
        decision = decide(sleeping, said, replicas, history=history, now=float(second), wall=MONDAY)
        asked, history = decision.replicas, decision.history
        seen.append(asked)

    assert seen[0] == 1
    assert [one for one, other in pairwise(seen) if one != other] == [1]
    assert seen[-1] == 0


@given(policies, loads, st.integers(0, 30))
def test_a_forecast_only_ever_raises_the_floor(policy: Policy, load: list[tuple[int, int]], expected: int) -> None:
    ahead = replace(policy, ahead=Ahead(expected, "it is usual"))

    for number, decision in enumerate(run(ahead, load)):
        assert decision.replicas <= most(policy), number
        if policy.scale_up.window == 0 and not policy.scale_up.policies:
            assert decision.replicas >= min(expected, most(policy)), number
    assert run(replace(policy, ahead=Ahead(0, "nothing is usual")), load) == run(policy, load)
