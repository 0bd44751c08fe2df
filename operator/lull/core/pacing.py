"""How fast the replica count may change: `scaling.behavior`, with the meaning that autoscaling/v2 gives its words.

Each policy looks at what the count was at the start of its period, by taking back what changed since, and lets it
move so far from there. Max takes the policy that allows the most change, Min the one that allows the least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lull.api.scaling import PolicyType, SelectPolicy

if TYPE_CHECKING:
    from lull.api.scaling import ScaleDownRules, ScaleUpRules, ScalingPolicy

UNMEASURED_WINDOW: Final = 300.0
SHORTEST_WINDOW: Final = 60.0
LONGEST_WINDOW: Final = 600.0


@dataclass(frozen=True, slots=True)
class Change:
    """One decision that changed the count."""

    at: float
    by: int


@dataclass(frozen=True, slots=True)
class Pace:
    """The rules of one direction."""

    window: float
    select: SelectPolicy
    policies: tuple[ScalingPolicy, ...]

    @property
    def is_disabled(self) -> bool:
        return self.select is SelectPolicy.DISABLED

    @property
    def memory(self) -> float:
        """How far back the policies look."""
        return max((policy.period_seconds for policy in self.policies), default=0.0)


def build_pace(rules: ScaleUpRules | ScaleDownRules, *, cold_start: float | None = None) -> Pace:
    """Rules with a window, that of the spec or else one as long as a cold start."""
    window: float | None = rules.stabilization_window_seconds
    if window is None:
        # To keep a replica that may be needed again costs no more than to start another one.
        window = UNMEASURED_WINDOW if cold_start is None else min(LONGEST_WINDOW, max(SHORTEST_WINDOW, cold_start))
    return Pace(window, rules.select_policy, tuple(rules.policies))


def find_most(pace: Pace, replicas: int, changes: tuple[Change, ...], now: float) -> int | None:
    """Most replicas that scaleUp allows now, never fewer than there are; None where it sets no limit."""
    if pace.is_disabled:
        return replicas
    if not pace.policies:
        return None
    limits = (_raise(policy, _find_start(policy, replicas, changes, now)) for policy in pace.policies)
    return max(replicas, max(limits) if pace.select is SelectPolicy.MAX else min(limits))


def find_least(pace: Pace, replicas: int, changes: tuple[Change, ...], now: float) -> int:
    """Fewest replicas that scaleDown allows now, never more than there are."""
    if pace.is_disabled:
        return replicas
    if not pace.policies:
        return 0
    limits = (_lower(policy, _find_start(policy, replicas, changes, now)) for policy in pace.policies)
    return min(replicas, min(limits) if pace.select is SelectPolicy.MAX else max(limits))


def _find_start(policy: ScalingPolicy, replicas: int, changes: tuple[Change, ...], now: float) -> int:
    """Replicas at the start of the policy's period."""
    return replicas - sum(change.by for change in changes if change.at > now - policy.period_seconds)


def _raise(policy: ScalingPolicy, start: int) -> int:
    if policy.type is PolicyType.PODS:
        return start + policy.value
    # Rounded up, or a small percentage of a few replicas would never add one.
    return -(-start * (100 + policy.value) // 100)


def _lower(policy: ScalingPolicy, start: int) -> int:
    if policy.type is PolicyType.PODS:
        return start - policy.value
    # Towards zero, as autoscaling/v2 does: a small percentage takes one.
    return int(start * (100 - policy.value) / 100)
