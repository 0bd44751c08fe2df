"""Laws of scaling by target, over whole courses of demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lull.api.scaling import SelectPolicy
from lull.core.pacing import Pace
from lull.core.scaling import Decision, Policy, decide
from lull.core.signals import Demand
from tests.properties.test_scaling import MONDAY, counts, demand, loads, most, outcomes, policies

WEEK = 7 * 86400
Course = Sequence[Demand | None]


def follow(policy: Policy, course: Course, *, asked: int = 0, start: int = 0, loading: int = 0) -> list[Decision]:
    """One decision a second; of the replicas that are asked for, the last so many always load."""
    decisions: list[Decision] = []
    history = None
    for second, heard in enumerate(course):
        replicas = counts(asked, loading=min(loading, asked))
        now = float(start + second)
        decision = decide(policy, heard, replicas, history=history, now=now, wall=MONDAY + now)
        decisions.append(decision)
        asked, history = decision.replicas, decision.history
    return decisions


def plain(policy: Policy, *, window: int = 0) -> Policy:
    """Without schedules, and limited by nothing but a window downwards."""
    return replace(
        policy,
        schedules=(),
        scale_up=Pace(0.0, SelectPolicy.MAX, ()),
        scale_down=Pace(float(window), SelectPolicy.MAX, ()),
    )


@given(policies, loads, st.integers(1, 500))
def test_decides_the_same_in_any_week(policy: Policy, load: list[tuple[int, int]], weeks: int) -> None:
    course: Course = [demand(*one) for one in load]

    assert outcomes(follow(policy, course)) == outcomes(follow(policy, course, start=weeks * WEEK))


@given(policies, loads, st.lists(st.integers(0, 50), min_size=60, max_size=60), st.integers(0, 30))
def test_more_demand_all_the_time_never_means_fewer_replicas(
    policy: Policy, load: list[tuple[int, int]], more: list[int], window: int
) -> None:
    free = plain(policy, window=window)
    less = follow(free, [demand(held, in_flight) for held, in_flight in load])
    greater = follow(free, [demand(held + add, in_flight) for (held, in_flight), add in zip(load, more, strict=False)])

    assert all(one.replicas <= other.replicas for one, other in zip(less, greater, strict=True))


@given(policies, loads, st.integers(2, 20), st.integers(0, 60), st.integers(0, 200))
def test_takes_nothing_back_that_noise_will_ask_for_again(
    policy: Policy, noise: list[tuple[int, int]], window: int, held: int, in_flight: int
) -> None:
    free = plain(replace(policy, idle_after=max(policy.idle_after, window)), window=window)
    # At least once in each window comes as much as ever does.
    course: Course = [
        demand(held, in_flight) if second % (window - 1) == 0 else demand(min(held, one[0]), min(in_flight, one[1]))
        for second, one in enumerate(noise)
    ]

    replicas = [one.replicas for one in follow(free, course)]

    assert len(set(replicas)) == 1


@given(policies, loads, st.integers(0, 20), st.lists(st.booleans(), min_size=60, max_size=60))
def test_goes_down_for_nothing_that_it_only_guesses(
    policy: Policy, load: list[tuple[int, int]], asked: int, heard: list[bool]
) -> None:
    """Neither when it hears a part of all gateways, nor when it hears none."""
    unscheduled = replace(policy, schedules=())
    course: Course = [
        replace(demand(*one), complete=False) if is_heard else None for one, is_heard in zip(load, heard, strict=False)
    ]
    within = min(max(asked, policy.min_replicas), most(policy))

    replicas = [within, *(one.replicas for one in follow(unscheduled, course, asked=within))]

    assert all(before <= after for before, after in pairwise(replicas))


@given(policies, loads, st.integers(1, 5))
def test_never_goes_down_while_even_one_replica_loads(
    policy: Policy, load: list[tuple[int, int]], loading: int
) -> None:
    unscheduled = replace(policy, schedules=())

    replicas = [one.replicas for one in follow(unscheduled, [demand(*one) for one in load], loading=loading)]

    assert replicas == sorted(replicas)


@given(policies, loads, st.integers(1, 60), st.integers(1, 50))
def test_requests_past_the_gateways_keep_a_replica_too(
    policy: Policy, load: list[tuple[int, int]], quiet: int, waiting: int
) -> None:
    course: Course = [demand(*one) for one in load] + [replace(demand(0, 0), waiting=waiting)] * quiet

    decisions = follow(policy, course, asked=1)

    assert all(one.replicas >= 1 for one in decisions[len(load) :])


@given(policies, loads, st.integers(0, 60), st.integers(0, 200))
def test_where_it_settles_does_not_depend_on_what_was(
    policy: Policy, load: list[tuple[int, int]], held: int, in_flight: int
) -> None:
    """Once all that a window remembers is over; an idle model sleeps whatever it did before."""
    free = plain(policy, window=5)
    rest: Course = [demand(held, in_flight)] * (int(policy.idle_after) + 10)

    settled = follow(free, [*(demand(*one) for one in load), *rest])[-1].replicas

    assert settled == follow(free, rest)[-1].replicas
