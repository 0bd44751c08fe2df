"""What the parts of the operator tell status about an LLMDeployment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lull.core.keeping import NOTHING, Kept

if TYPE_CHECKING:
    from lull.api.reasons import Reason
    from lull.api.status import AdapterState, DecisionRecord


@dataclass(frozen=True, slots=True)
class ScalingView:
    """What the autoscaler says of one LLMDeployment."""

    desired_replicas: int | None
    """None before its first decision."""
    reason: Reason
    """SCALING, MANUAL or METRICS_UNAVAILABLE."""
    message: str
    decisions: tuple[DecisionRecord, ...]
    """Newest first, at most ten."""
    kept: Kept = NOTHING


@dataclass(frozen=True, slots=True)
class AdapterView:
    """How far one adapter is, as the engines say."""

    name: str
    state: AdapterState
    ready_replicas: int
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a spec cannot be followed."""

    reason: Reason
    message: str
