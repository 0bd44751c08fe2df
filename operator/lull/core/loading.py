"""How long a replica may be on its way before it counts as stuck, and how many are.

What loads is never taken away, as a cold start costs minutes; what will never be ready must not be kept for it. How long
that takes to be known goes by the last cold start: another one may be of an empty cache, on a node that has no image yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

LONGEST: Final = 7200.0
"""A rollout of which nothing is ready for so long has failed, by the Deployments' progressDeadlineSeconds."""
SHORTEST: Final = 1800.0
_COLD_STARTS: Final = 6


@dataclass(frozen=True, slots=True)
class Unmade:
    """Replicas on their way that no pod tells of: not created, or to be woken."""

    count: int
    since: float
    """When they last became more."""


NONE_UNMADE: Final = Unmade(0, 0.0)


def find_patience(cold_start: float | None) -> float:
    """Seconds after which a replica that is not ready is stuck; the last cold start is None where none was measured."""
    return LONGEST if cold_start is None else min(LONGEST, max(SHORTEST, _COLD_STARTS * cold_start))


def follow_unmade(known: Unmade, count: int, now: float) -> Unmade:
    """More of them are younger ones, and nobody knows which; fewer are none the younger for it."""
    return Unmade(count, now if count > known.count else known.since)


def count_stuck(made_at: Collection[float], unmade: Unmade, *, patience: float, now: float) -> int:
    """How many have been on their way for too long; `made_at` are the times at which those with a pod got it."""
    made = sum(now - at >= patience for at in made_at)
    return made + (unmade.count if now - unmade.since >= patience else 0)
