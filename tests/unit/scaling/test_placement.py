"""Replicas over pools by example."""

from __future__ import annotations

from typing import Any

import pytest

from lull.api.placement import PlacementSpec
from lull.core.placement import find_capacity, split

SPOT = {"name": "spot", "capacityType": "Spot"}
DEMAND = {"name": "demand", "capacityType": "OnDemand"}


def placed(*pools: dict[str, Any], base: int | str = 0) -> PlacementSpec:
    return PlacementSpec.model_validate({"pools": pools, "onDemandBase": base})


def counts(replicas: int, placement: PlacementSpec, **observed: int) -> dict[str, int]:
    return dict(split(replicas, placement, observed).counts)


def test_fills_pools_in_their_order() -> None:
    placement = placed({**SPOT, "maxReplicas": 2}, DEMAND)

    assert counts(1, placement) == {"spot": 1, "demand": 0}
    assert counts(5, placement) == {"spot": 2, "demand": 3}


def test_puts_the_base_on_demand_first() -> None:
    placement = placed(SPOT, DEMAND, base=2)

    assert counts(1, placement) == {"spot": 0, "demand": 1}
    assert counts(2, placement) == {"spot": 0, "demand": 2}
    assert counts(5, placement) == {"spot": 3, "demand": 2}


def test_rounds_a_share_up_for_the_base() -> None:
    placement = placed(SPOT, DEMAND, base="25%")

    assert [counts(total, placement)["demand"] for total in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3]


def test_takes_from_the_last_pool_first_and_never_from_the_base() -> None:
    placement = placed({**SPOT, "maxReplicas": 3}, DEMAND, base=1)

    assert counts(6, placement) == {"spot": 3, "demand": 3}
    assert counts(4, placement, spot=3, demand=3) == {"spot": 3, "demand": 1}
    assert counts(2, placement, spot=3, demand=1) == {"spot": 1, "demand": 1}
    assert counts(1, placement, spot=1, demand=1) == {"spot": 0, "demand": 1}


def test_leaves_running_replicas_where_they_are() -> None:
    """Another order of the pools, or a higher limit, is for replicas to come."""
    assert counts(4, placed(DEMAND, SPOT), spot=3, demand=1) == {"demand": 1, "spot": 3}
    assert counts(5, placed(SPOT, DEMAND), spot=2, demand=2) == {"spot": 3, "demand": 2}


def test_moves_as_many_as_a_raised_base_needs() -> None:
    assert counts(4, placed(SPOT, DEMAND, base=2), spot=4, demand=0) == {"spot": 2, "demand": 2}


def test_moves_what_a_lowered_limit_does_not_hold() -> None:
    assert counts(4, placed({**SPOT, "maxReplicas": 1}, DEMAND), spot=4, demand=0) == {"spot": 1, "demand": 3}


def test_places_what_ran_in_a_pool_that_is_gone() -> None:
    assert counts(3, placed(SPOT, DEMAND), old=3) == {"spot": 3, "demand": 0}


def test_says_what_finds_no_room() -> None:
    result = split(9, placed({**SPOT, "maxReplicas": 2}, {**DEMAND, "maxReplicas": 3}, base=4), {})

    assert dict(result.counts) == {"spot": 2, "demand": 3}
    assert result.unplaced == 4
    assert result.message == (
        "2 in spot, 3 in demand; 4 more than the pools' maxReplicas allow; "
        "onDemandBase is 4, and the pools that are not Spot hold 3"
    )


def test_says_where_replicas_are() -> None:
    placement = placed(SPOT, DEMAND, base=1)

    assert split(3, placement, {}).message == "2 in spot, 1 in demand"
    assert split(0, placement, {}).message == "none"


@pytest.mark.parametrize(
    ("pools", "capacity"),
    [([SPOT], None), ([{**SPOT, "maxReplicas": 2}, DEMAND], None), ([{**SPOT, "maxReplicas": 2}], 2)],
)
def test_is_limited_where_every_pool_is(pools: list[dict[str, Any]], capacity: int | None) -> None:
    assert find_capacity(placed(*pools)) == capacity
