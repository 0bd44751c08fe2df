"""Policies of `behavior`, against figures worked out by the rules of autoscaling/v2."""

from __future__ import annotations

import pytest

from lull.api.scaling import PolicyType, ScalingPolicy, SelectPolicy
from lull.core.pacing import Change, Pace, find_least, find_most


def pace(*policies: tuple[PolicyType, int, int], select: SelectPolicy = SelectPolicy.MAX) -> Pace:
    return Pace(
        0.0,
        select,
        tuple(ScalingPolicy(type=kind, value=value, period_seconds=period) for kind, value, period in policies),
    )


PODS, PERCENT = PolicyType.PODS, PolicyType.PERCENT
MIXED = ((PODS, 4, 60), (PERCENT, 10, 60))


@pytest.mark.parametrize(
    ("policies", "select", "replicas", "most"),
    [
        (((PODS, 4, 60),), SelectPolicy.MAX, 10, 14),
        (((PERCENT, 100, 60),), SelectPolicy.MAX, 10, 20),
        # Rounded up: ten percent of eleven are two.
        (((PERCENT, 10, 60),), SelectPolicy.MAX, 11, 13),
        (((PERCENT, 1, 60),), SelectPolicy.MAX, 1, 2),
        (MIXED, SelectPolicy.MAX, 10, 14),
        (MIXED, SelectPolicy.MIN, 10, 11),
        (MIXED, SelectPolicy.MAX, 80, 88),
        (MIXED, SelectPolicy.MIN, 80, 84),
        (MIXED, SelectPolicy.DISABLED, 10, 10),
        ((), SelectPolicy.DISABLED, 10, 10),
        ((), SelectPolicy.MAX, 10, None),
        ((), SelectPolicy.MIN, 10, None),
    ],
)
def test_goes_up_so_far(
    policies: tuple[tuple[PolicyType, int, int], ...], select: SelectPolicy, replicas: int, most: int | None
) -> None:
    assert find_most(pace(*policies, select=select), replicas, (), 0.0) == most


@pytest.mark.parametrize(
    ("policies", "select", "replicas", "least"),
    [
        (((PODS, 4, 60),), SelectPolicy.MAX, 10, 6),
        (((PERCENT, 10, 60),), SelectPolicy.MAX, 80, 72),
        # Towards zero: ten percent of seventy-two leave sixty-four.
        (((PERCENT, 10, 60),), SelectPolicy.MAX, 72, 64),
        (((PERCENT, 1, 60),), SelectPolicy.MAX, 1, 0),
        (MIXED, SelectPolicy.MAX, 80, 72),
        (MIXED, SelectPolicy.MIN, 80, 76),
        (MIXED, SelectPolicy.MAX, 10, 6),
        (MIXED, SelectPolicy.MIN, 10, 9),
        (MIXED, SelectPolicy.DISABLED, 10, 10),
        ((), SelectPolicy.DISABLED, 10, 10),
        ((), SelectPolicy.MAX, 10, 0),
    ],
)
def test_goes_down_so_far(
    policies: tuple[tuple[PolicyType, int, int], ...], select: SelectPolicy, replicas: int, least: int
) -> None:
    assert find_least(pace(*policies, select=select), replicas, (), 0.0) == least


def test_counts_what_changed_within_the_period() -> None:
    up = pace((PODS, 4, 60))

    assert find_most(up, 13, (Change(0.0, 3),), 59.0) == 14
    assert find_most(up, 13, (Change(0.0, 3),), 60.0) == 17


def test_takes_back_changes_in_both_directions() -> None:
    # Eight at the start of the period: five more, then three fewer.
    changes = (Change(1.0, 5), Change(2.0, -3))

    assert find_most(pace((PERCENT, 100, 60)), 10, changes, 10.0) == 16
    assert find_least(pace((PODS, 2, 60)), 10, changes, 10.0) == 6


def test_never_turns_a_limit_into_a_step_the_other_way() -> None:
    assert find_most(pace((PODS, 1, 60)), 10, (Change(0.0, 9),), 1.0) == 10
    assert find_least(pace((PODS, 1, 60)), 10, (Change(0.0, -9),), 1.0) == 10


def test_each_policy_looks_at_its_own_period() -> None:
    both = pace((PODS, 4, 60), (PODS, 10, 600), select=SelectPolicy.MIN)
    changes = (Change(0.0, 8),)

    assert find_most(both, 9, changes, 30.0) == 9
    assert find_most(both, 9, changes, 100.0) == 11
    assert find_most(both, 9, changes, 600.0) == 13
