"""What is kept of an object."""

from __future__ import annotations

from typing import Any

from lull.api.llmdeployment import Manifest
from lull.core.planning import is_scaled
from lull.doors.trimming import is_alike, trim


def written(kind: str, **fields: Any) -> Manifest:
    metadata = {
        "name": "m",
        "namespace": "default",
        "resourceVersion": "7",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept"},
        "managedFields": [
            {"manager": "lull-autoscaler", "operation": "Apply", "subresource": "scale", "fieldsV1": {"f:spec": {}}}
        ],
    }
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields}


def test_who_scaled_a_workload_stays_known() -> None:
    kept = trim(written("Deployment", spec={}, status={"replicas": 1}))

    assert is_scaled(kept)
    assert kept["metadata"]["managedFields"] == [
        {"manager": "lull-autoscaler", "operation": "Apply", "subresource": "scale"}
    ]
    assert kept["metadata"]["annotations"] == {"note": "kept"}
    assert kept["status"] == {"replicas": 1}


def test_a_budgets_status_is_none_of_ours() -> None:
    kept = trim(written("PodDisruptionBudget", spec={"maxUnavailable": 1}, status={"currentHealthy": 1}))

    assert kept.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert "managedFields" not in kept["metadata"]


def test_a_pod_keeps_where_it_is_and_how_it_fares() -> None:
    container = {"name": "engine", "image": "i", "env": [{"name": "A"}], "resources": {"limits": {}}}
    kept = trim(
        written("Pod", spec={"nodeName": "n", "volumes": [{}], "containers": [container]}, status={"phase": "P"})
    )

    assert kept["spec"] == {
        "nodeName": "n",
        "containers": [{"name": "engine", "image": "i", "resources": {"limits": {}}}],
    }
    assert kept["status"] == {"phase": "P"}


def test_objects_are_alike_that_differ_in_their_version_alone() -> None:
    one, other = trim(written("Service", spec={"a": 1})), trim(written("Service", spec={"a": 1}))
    other["metadata"]["resourceVersion"] = "8"

    assert is_alike(one, other)
    assert not is_alike(one, {**other, "spec": {"a": 2}})
    assert not is_alike(one, {**other, "metadata": {**other["metadata"], "labels": {"new": "label"}}})
