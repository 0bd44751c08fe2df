"""The snapshot that a reconcile decides from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that belongs to one LLMDeployment, as it was read.

    Workloads and others are owned (by label and by the uid of their controller reference); pods are selected
    by label, since their owner is a ReplicaSet.
    """

    workloads: tuple[Manifest, ...] = ()
    """Deployments of apps/v1, one per pool."""
    pods: tuple[Manifest, ...] = ()
    """Engine pods, also those that are going."""
    others: tuple[Manifest, ...] = ()
    """Service, NetworkPolicy, PodDisruptionBudget."""
