"""Laws of scaling: whatever the demand does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from lull.api.reasons import ScalingReason
from lull.api.scaling import PolicyType, ScalingPolicy, ScheduleSpec, SelectPolicy
from lull.core.pacing import Pace
from lull.core.scaling import Decision, History, Policy, ReplicaCounts, decide
from lull.core.schedules import find_floor
from lull.core.signals import Demand

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
