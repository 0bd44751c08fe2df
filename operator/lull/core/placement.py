"""Which pool carries how many of the replicas that were decided on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lull.api.base import resolve_count
from lull.api.placement import CapacityType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lull.api.placement import PlacementSpec, PoolSpec


@dataclass(frozen=True, slots=True)
class Split:
    counts: Mapping[str, int]
    """Replicas by the name of every pool in the list."""
    unplaced: int
    """Replicas that no pool has room for."""
    message: str


def find_capacity(placement: PlacementSpec) -> int | None:
    """Most replicas that the pools hold together; None where one of them has no limit."""
    limits = [pool.max_replicas for pool in placement.pools if pool.max_replicas is not None]
    return sum(limits) if len(limits) == len(placement.pools) else None


def split(replicas: int, placement: PlacementSpec, observed: Mapping[str, int]) -> Split:
    """Spread replicas over the pools, starting from how they are spread now.

    The base goes to pools that are not Spot, the rest to all pools, both in order and up to each pool's maxReplicas.
    What runs stays where it is, as moving a replica costs a cold start: only a base that is not met, or a pool over
    its limit, moves one. Fewer replicas leave the last pool first. Where pools that are not Spot have no room for
    the whole base, the rest of it goes wherever there is room: better on spot capacity than nowhere.
    """
    room = {pool.name: replicas if pool.max_replicas is None else pool.max_replicas for pool in placement.pools}
    lasting = [pool for pool in placement.pools if pool.capacity_type is not CapacityType.SPOT]
    wanted = min(resolve_count(placement.on_demand_base, replicas, round_up=True), replicas)
    base = min(wanted, sum(room[pool.name] for pool in lasting))
    counts = {name: min(observed.get(name, 0), most) for name, most in room.items()}

    _add(counts, lasting, room, base - _sum(counts, lasting))
    _remove(counts, placement.pools, sum(counts.values()) - replicas, base=base, lasting=lasting)
    _add(counts, placement.pools, room, replicas - sum(counts.values()))

    unplaced = replicas - sum(counts.values())
    return Split(counts, unplaced, _explain(counts, unplaced, wanted=wanted, base=base))


def _add(counts: dict[str, int], pools: Iterable[PoolSpec], room: Mapping[str, int], more: int) -> None:
    """Give so many more replicas to pools that have room, the first ones first."""
    for pool in pools:
        taken = max(min(more, room[pool.name] - counts[pool.name]), 0)
        counts[pool.name] += taken
        more -= taken


def _remove(counts: dict[str, int], pools: list[PoolSpec], fewer: int, *, base: int, lasting: list[PoolSpec]) -> None:
    """Take so many replicas from pools, the last ones first, and none of the base."""
    spare = max(_sum(counts, lasting) - base, 0)
    for pool in reversed(pools):
        given = max(min(fewer, counts[pool.name]), 0)
        if pool in lasting:
            given = min(given, spare)
            spare -= given
        counts[pool.name] -= given
        fewer -= given


def _sum(counts: Mapping[str, int], pools: Iterable[PoolSpec]) -> int:
    return sum(counts[pool.name] for pool in pools)


def _explain(counts: Mapping[str, int], unplaced: int, *, wanted: int, base: int) -> str:
    told = ", ".join(f"{count} in {name}" for name, count in counts.items() if count) or "none"
    if unplaced:
        told += f"; {unplaced} more than the pools' maxReplicas allow"
    if base < wanted:
        told += f"; onDemandBase is {wanted}, and the pools that are not Spot hold {base}"
    return told
