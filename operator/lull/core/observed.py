"""The snapshot that a reconcile decides from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that belongs to one LLMDeployment, as it was read.

    Workloads and others are owned (by label and by the uid of their controller reference); pods are selected
    by label, since their owner is a ReplicaSet.
    """

    workloads: tuple[Manifest, ...] = ()
    """Deployments, or LeaderWorkerSets where a replica spans nodes: one per pool."""
    pods: tuple[Manifest, ...] = ()
    """Engine pods, also those that are going; of a group of pods its leader."""
    workers: tuple[Manifest, ...] = ()
    """The other pods of groups: they serve no requests, and no replica is ready without them."""
    others: tuple[Manifest, ...] = ()
    """Service, NetworkPolicy, PodDisruptionBudget, PersistentVolumeClaim, PodMonitor."""
    foreign: tuple[Manifest, ...] = ()
    """Objects that bear the name of a child and belong to somebody else."""

    @property
    def members(self) -> tuple[Manifest, ...]:
        """Every pod of every replica."""
        return (*self.pods, *self.workers)


def is_owned(manifest: Manifest, deployment: LLMDeployment) -> bool:
    """Label alone is a claim that anybody can make; the controller reference with this very uid is not."""
    return any(
        owner.get("controller") and owner.get("uid") == deployment.uid
        for owner in manifest["metadata"].get("ownerReferences", ())
    )
