"""How long things took within the last minute, in numbers that are few and add up.

Times are counted by buckets, each an eighth of a doubling wide, so that what several gateways saw adds up to what one
that saw it all would say, and a percentile of it is right to a tenth.
"""

from __future__ import annotations

from math import exp2, log2
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BUCKETS_PER_DOUBLING: Final = 8
SHORTEST: Final = 1e-4
"""Where the first bucket begins, in seconds; what is shorter counts there."""
LAST_BUCKET: Final = 207
"""Ends at more than an hour and a half; what is longer counts there."""
SLOT_SECONDS: Final = 5.0
SLOTS: Final = 12
"""Slots that are remembered, the one that goes on included."""

_Bucket = TypeVar("_Bucket")


class Latencies:
    """Times of the last minute, one of which is forgotten with all others of its slot."""

    __slots__ = ("_counts", "_slots")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        """By bucket, of all slots."""
        self._slots: dict[int, dict[int, int]] = {}

    def add(self, seconds: float, *, now: float) -> None:
        number = int(now // SLOT_SECONDS)
        slot = self._slots.get(number)
        if slot is None:
            self._forget(number)
            slot = self._slots[number] = {}
        bucket = find_bucket(seconds)
        slot[bucket] = slot.get(bucket, 0) + 1
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def count(self, *, now: float) -> Mapping[int, int]:
        """How many there were, by bucket."""
        self._forget(int(now // SLOT_SECONDS))
        return self._counts

    def _forget(self, number: int) -> None:
        """Forget what is too old when this slot goes on."""
        for old in [one for one in self._slots if one <= number - SLOTS]:
            for bucket, count in self._slots.pop(old).items():
                left = self._counts[bucket] - count
                if left:
                    self._counts[bucket] = left
                else:
                    del self._counts[bucket]


def find_bucket(seconds: float) -> int:
    if seconds <= SHORTEST:
        return 0
    return min(LAST_BUCKET, int(BUCKETS_PER_DOUBLING * log2(seconds / SHORTEST)))


def add_counts(several: Iterable[Mapping[_Bucket, int]]) -> dict[_Bucket, int]:
    """Buckets are numbers, or in JSON the names of these."""
    total: dict[_Bucket, int] = {}
    for counts in several:
        for bucket, count in counts.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def find_percentile(counts: Mapping[int, int], percentile: int) -> float | None:
    """Seconds that so many per cent took no longer than; None where there are none."""
    rank = round(percentile / 100 * (sum(counts.values()) - 1))
    for bucket in sorted(counts):
        if rank < counts[bucket]:
            # As if those of a bucket were spread evenly over it.
            place = bucket + (rank + 0.5) / counts[bucket]
            return SHORTEST * exp2(place / BUCKETS_PER_DOUBLING)
        rank -= counts[bucket]
    return None
