from __future__ import annotations

from typing import Any

import pytest

from lull.core.departures import is_leaving


def node(*taints: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "node-1"},
        "spec": {"taints": [{"key": taint, "effect": "NoSchedule"} for taint in taints], **spec},
    }


@pytest.mark.parametrize(
    "taint",
    [
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "aws-node-termination-handler/spot-itn",
        "cloud.google.com/impending-node-termination",
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/unreachable",
    ],
)
def test_a_taint_says_that_a_node_is_about_to_go(taint: str) -> None:
    assert is_leaving(node("example.com/team", taint))


def test_a_cordoned_node_and_one_being_deleted_are_about_to_go() -> None:
    deleted = node()
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    assert is_leaving(node(unschedulable=True))
    assert is_leaving(deleted)


@pytest.mark.parametrize(
    "taint", ["DeletionCandidateOfClusterAutoscaler", "nvidia.com/gpu", "node.kubernetes.io/memory-pressure"]
)
def test_other_taints_say_nothing_of_the_kind(taint: str) -> None:
    assert not is_leaving(node(taint))


def test_a_node_without_anything_stays() -> None:
    assert not is_leaving({"metadata": {"name": "node-1"}})
    assert not is_leaving(node(unschedulable=False))
