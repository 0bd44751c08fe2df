"""Laws of splitting replicas over pools: whatever the pools, and wherever replicas run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lull.api.base import resolve_count
from lull.api.placement import CapacityType, PlacementSpec, PoolSpec
from lull.core.placement import Split, find_capacity, split

NAMES = ("a", "b", "c", "d")


@st.composite
def placements(draw: st.DrawFn) -> PlacementSpec:
    count = draw(st.integers(1, len(NAMES)))
    pools = [
        PoolSpec(
            name=name,
            capacity_type=draw(st.sampled_from(CapacityType)),
            max_replicas=draw(st.none() | st.integers(1, 6)),
        )
        for name in NAMES[:count]
    ]
    only_spot = all(pool.capacity_type is CapacityType.SPOT for pool in pools)
    base = 0 if only_spot else draw(st.integers(0, 8) | st.integers(0, 100).map(lambda share: f"{share}%"))
    return PlacementSpec(pools=pools, on_demand_base=base)


totals = st.integers(0, 24)
observations = st.dictionaries(st.sampled_from((*NAMES, "gone")), st.integers(0, 12))


def lasting(placement: PlacementSpec, result: Split) -> int:
    """Replicas that are not on spot capacity."""
    return sum(result.counts[pool.name] for pool in placement.pools if pool.capacity_type is not CapacityType.SPOT)


@given(placements(), totals, observations)
def test_places_all_that_the_pools_have_room_for(
    placement: PlacementSpec, total: int, observed: dict[str, int]
) -> None:
    capacity = find_capacity(placement)
    placed = total if capacity is None else min(total, capacity)

    result = split(total, placement, observed)

    assert sum(result.counts.values()) == placed
    assert result.unplaced == total - placed


@given(placements(), totals, observations)
def test_names_every_pool_of_the_list_and_no_other(
    placement: PlacementSpec, total: int, observed: dict[str, int]
) -> None:
    assert list(split(total, placement, observed).counts) == [pool.name for pool in placement.pools]


@given(placements(), totals, observations)
def test_fills_no_pool_beyond_its_limit(placement: PlacementSpec, total: int, observed: dict[str, int]) -> None:
    counts = split(total, placement, observed).counts

    assert all(0 <= counts[pool.name] <= (pool.max_replicas or total) for pool in placement.pools)


@given(placements(), totals, observations)
def test_keeps_the_base_off_spot_capacity(placement: PlacementSpec, total: int, observed: dict[str, int]) -> None:
    base = min(resolve_count(placement.on_demand_base, total, round_up=True), total)
    room = sum(pool.max_replicas or total for pool in placement.pools if pool.capacity_type is not CapacityType.SPOT)

    assert lasting(placement, split(total, placement, observed)) >= min(base, room)


@given(placements(), totals, observations)
def test_moves_nothing_the_second_time(placement: PlacementSpec, total: int, observed: dict[str, int]) -> None:
    first = split(total, placement, observed)

    assert split(total, placement, first.counts) == first


@given(placements(), totals, observations)
def test_one_more_takes_none_away(placement: PlacementSpec, total: int, observed: dict[str, int]) -> None:
    fewer, more = split(total, placement, observed).counts, split(total + 1, placement, observed).counts

    assert all(fewer[name] <= more[name] for name in fewer)


@given(placements(), totals, totals)
def test_what_fits_stays_where_it_runs(placement: PlacementSpec, total: int, later: int) -> None:
    """Replicas are added on the way up and removed on the way down; none changes its pool."""
    before = split(total, placement, {}).counts

    after = split(later, placement, before).counts

    moved = min(
        sum(max(after[name] - count, 0) for name, count in before.items()),
        sum(max(count - after[name], 0) for name, count in before.items()),
    )
    assert moved == 0


@given(placements(), totals, observations)
def test_the_order_of_growth_does_not_matter(placement: PlacementSpec, total: int, observed: dict[str, int]) -> None:
    """From nothing, one at a time comes to the same as all at once."""
    counts = split(0, placement, observed).counts
    for replicas in range(total + 1):
        counts = split(replicas, placement, counts).counts

    assert counts == split(total, placement, {}).counts
