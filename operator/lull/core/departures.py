"""Which nodes are about to go, by what is written on them. Their pods get no new work while there are others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest

MARKS: Final = frozenset(
    {
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "cloud.google.com/impending-node-termination",
        "kubernetes.azure.com/scheduled-event",
        "node.cloudprovider.kubernetes.io/shutdown",
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/unschedulable",
    }
)
"""Taints that say so. `DeletionCandidateOfClusterAutoscaler` is left out: it is a thought, and is often taken back."""
MARKS_OF: Final = ("aws-node-termination-handler/",)


def is_leaving(node: Manifest) -> bool:
    """Whether a node is cordoned, being deleted, or has a taint that says that it is about to go."""
    spec = node.get("spec") or {}
    return (
        "deletionTimestamp" in node["metadata"]
        or bool(spec.get("unschedulable"))
        or any(taint["key"] in MARKS or taint["key"].startswith(MARKS_OF) for taint in spec.get("taints") or ())
    )
