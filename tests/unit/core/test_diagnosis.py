from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lull.api.llmdeployment import Manifest
from lull.api.schema import build_crd
from lull.api.timestamps import parse_timestamp
from lull.core.diagnosis import REQUIRED_ACCESS, Facts, Verdict, diagnose

NOW = parse_timestamp("2026-11-18T09:46:40Z")
RENEWED = "2026-11-18T09:46:35.000000Z"  # 5 s before NOW


def _workload(component: str, *, ready: int = 2) -> Manifest:
    return {
        "metadata": {
            "name": f"lull-{component}",
            "namespace": "lull-system",
            "labels": {"app.kubernetes.io/component": component},
        },
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": "lull/lull:0.1.0"}]}}},
        "status": {"readyReplicas": ready},
    }


def _lease(**spec: Any) -> Manifest:
    return {"spec": {"holderIdentity": "lull-operator-a", "renewTime": RENEWED, "leaseDurationSeconds": 15, **spec}}


def _node(labels: dict[str, str], **allocatable: str) -> Manifest:
    return {"metadata": {"name": "node-1", "labels": labels}, "status": {"allocatable": allocatable}}


L4 = {"nvidia.com/gpu.product": "NVIDIA-L4"}
HEALTHY = Facts(
    lull_version="0.1.0",
    server={"major": "1", "minor": "34+", "gitVersion": "v1.34.1"},
    crd=build_crd(),
    workloads=(_workload("operator"), _workload("gateway")),
    leases=(_lease(),),
    access=dict.fromkeys(REQUIRED_ACCESS, True),
    nodes=(_node(L4, **{"nvidia.com/gpu": "8"}),),
    storage_classes=(
        {"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}},
    ),
    prometheus=({"metadata": {"name": "prometheus-0", "namespace": "monitoring"}},),
    monitored=({"metadata": {"name": "monitoring"}},),
    serves_groups=True,
    serves_pod_monitors=True,
)


def _only(facts: Facts) -> tuple[Verdict, str, str]:
    """The one finding that is not ok."""
    (found,) = [one for one in diagnose(facts, NOW) if one.verdict is not Verdict.OK]
    return found.verdict, found.subject, found.message


def _old_crd() -> Manifest:
    crd = build_crd()
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["adapters"]
    return crd


def test_finds_nothing_wrong_with_a_healthy_cluster() -> None:
    found = diagnose(HEALTHY, NOW)

    assert {one.verdict for one in found} == {Verdict.OK}
    assert [one.subject for one in found] == [
        "Kubernetes", "CRD", "operator", "gateway", "leader", "RBAC", "accelerators", "storage", "LeaderWorkerSet",
        "Prometheus",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"server": {"major": "1", "minor": "28", "gitVersion": "v1.28.0"}}, "Kubernetes", "too old: Lull needs 1.31"),
        ({"crd": None}, "CRD", "crds.install=true"),
        ({"crd": _old_crd()}, "CRD", "spec.adapters"),
        ({"workloads": (_workload("operator"),)}, "gateway", "is not installed: no request is served"),
        ({"workloads": (_workload("operator", ready=0), _workload("gateway"))}, "operator", "0 of 2 ready"),
        ({"leases": ()}, "leader", "no operator has ever led"),
        ({"leases": (_lease(holderIdentity=""),)}, "leader", "no operator leads"),
        ({"leases": (_lease(renewTime="2026-11-18T09:45:00.000000Z"),)}, "leader", "has not renewed its Lease"),
        (
            {"access": {**dict.fromkeys(REQUIRED_ACCESS, True), ("apps", "deployments/scale", "patch"): False}},
            "RBAC",
            "may not patch deployments/scale.apps",
        ),
    ],
)
def test_what_lull_needs_and_lacks_fails(change: dict[str, Any], subject: str, words: str) -> None:
    verdict, found, message = _only(replace(HEALTHY, **change))

    assert (verdict, found) == (Verdict.FAIL, subject)
    assert words in message


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"workloads": (_workload("operator"), _workload("gateway", ready=1))}, "gateway", "1 of 2 ready"),
        ({"nodes": ()}, "accelerators", "no node offers any"),
        ({"nodes": (_node({}, **{"nvidia.com/gpu": "8"}),)}, "accelerators", "node-1 bear no product label"),
        ({"storage_classes": ()}, "storage", "no default StorageClass"),
        ({"serves_groups": False}, "LeaderWorkerSet", "nodesPerReplica above 1"),
        ({"prometheus": ()}, "Prometheus", "no pod calls itself Prometheus"),
        ({"monitored": ()}, "Prometheus", "kubectl label namespace monitoring lull.dev/monitoring=true"),
        ({"serves_pod_monitors": False}, "Prometheus", "without PodMonitors"),
    ],
)
def test_what_not_everybody_needs_is_a_warning(change: dict[str, Any], subject: str, words: str) -> None:
    verdict, found, message = _only(replace(HEALTHY, **change))

    assert (verdict, found) == (Verdict.WARN, subject)
    assert words in message


@pytest.mark.parametrize("field", ["server", "workloads", "nodes", "prometheus"])
def test_what_may_not_be_read_is_a_warning(field: str) -> None:
    unread: dict[str, Any] = {field: None}

    found = diagnose(replace(HEALTHY, **unread), NOW)

    assert Verdict.FAIL not in {one.verdict for one in found}
    assert any(one.verdict is Verdict.WARN and "could not be read" in one.message for one in found)


@pytest.mark.parametrize("field", ["leases", "access", "storage_classes"])
def test_what_may_not_be_read_and_is_no_news_is_left_out(field: str) -> None:
    unread: dict[str, Any] = {field: None}

    assert {one.verdict for one in diagnose(replace(HEALTHY, **unread), NOW)} == {Verdict.OK}


def test_counts_accelerators_by_product() -> None:
    a100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    nodes = (*(_node(L4, **{"nvidia.com/gpu": "4"}) for _ in range(2)), _node(a100, **{"nvidia.com/gpu": "8"}))

    found = diagnose(replace(HEALTHY, nodes=nodes), NOW)

    assert "nvidia.com/gpu: 8 x NVIDIA-A100-SXM4-80GB, 8 x NVIDIA-L4, on 3 nodes" in {one.message for one in found}
