from __future__ import annotations

from typing import Any

import pytest

from lull.api.llmdeployment import Manifest
from lull.api.reasons import Reason
from lull.core.manifests import build
from lull.core.nodes import NodeCheck, PoolView, check_nodes
from tests.manifests import SETTINGS, manifest, stored

L4 = {"nvidia.com/gpu.product": "NVIDIA-L4"}
SPOT = {"eks.amazonaws.com/capacityType": "SPOT"}


def _node(
    name: str, gpus: int = 8, *, labels: dict[str, str] | None = None, taint: tuple[str, str, str] | None = None
) -> Manifest:
    has = {"cpu": "64", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    taints = [dict(zip(("key", "value", "effect"), taint, strict=True))] if taint is not None else []
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": taints},
        "status": {"capacity": has, "allocatable": has},
    }


def _check(*nodes: Manifest, autoscaled: bool = False, **spec: Any) -> NodeCheck:
    deployment = stored(manifest(**spec))
    settings = SETTINGS
    return check_nodes(deployment, build(deployment, settings), nodes, autoscaled=autoscaled)


def _pool(*nodes: Manifest, **pool: Any) -> PoolView:
    return _check(*nodes, placement={"pools": [{"name": "only", **pool}]}).pools["only"]


def test_refuses_more_accelerators_than_any_node_has() -> None:
    check = _check(_node("a", 4), _node("b", 8), parallelism={"tensor": 16})

    assert check.refusal is not None
    assert "16 nvidia.com/gpu" in check.refusal
    assert "more than 8" in check.refusal


@pytest.mark.parametrize(
    ("nodes", "autoscaled"),
    [
        ((_node("a", 4),), True),
        ((_node("a", 4), _node("b", 0, labels={"karpenter.sh/nodepool": "gpu"})), False),
        ((_node("a", 0),), False),
        ((), False),
    ],
    ids=["autoscaled", "karpenter", "none has any", "no nodes"],
)
def test_only_warns_where_a_larger_node_may_come(nodes: tuple[Manifest, ...], autoscaled: bool) -> None:
    check = _check(*nodes, autoscaled=autoscaled, parallelism={"tensor": 8})

    assert check.refusal is None
    assert len(check.warnings) == 1


def test_takes_the_accelerators_of_one_node_of_a_group() -> None:
    deployment = stored(manifest(parallelism={"tensor": 8, "pipeline": 2}, accelerator={"nodesPerReplica": 2}))
    group = {
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "g", "labels": {"lull.dev/pool": "default"}},
        "spec": {
            "leaderWorkerTemplate": {
                "workerTemplate": {
                    "spec": {"containers": [{"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "8"}}}]}
                }
            }
        },
    }

    assert check_nodes(deployment, (group,), (_node("a", 8),), autoscaled=False).refusal is None
    assert check_nodes(deployment, (group,), (_node("a", 4),), autoscaled=False).refusal is not None


def test_says_nothing_where_nodes_may_not_be_read() -> None:
    deployment = stored(manifest(parallelism={"tensor": 16}))

    check = check_nodes(deployment, build(deployment, SETTINGS), None, autoscaled=False)

    assert check.refusal is None
    assert check.warnings == ()


def test_a_pool_that_a_node_matches_is_fine() -> None:
    view = _pool(
        _node("a", labels={**L4, **SPOT, "zone": "a"}),
        product="NVIDIA-L4",
        capacityType="Spot",
        nodeSelector={"zone": "a"},
    )

    assert view.misfit is None
    assert view.taints == ()


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"product": "NVIDIA-H100"}, "product NVIDIA-H100"),
        ({"capacityType": "Spot"}, "spot capacity"),
        ({"nodeSelector": {"zone": "b"}}, "label zone=b"),
    ],
)
def test_warns_of_labels_that_no_node_has(pool: dict[str, Any], words: str) -> None:
    view = _pool(_node("a", labels={**L4, "zone": "a"}), **pool)

    assert view.misfit is not None
    assert view.misfit.reason is Reason.NODE_SELECTOR_MISMATCH
    assert words in view.misfit.detail


def test_warns_of_a_taint_on_every_node_that_would_fit_and_names_it() -> None:
    view = _pool(_node("cpu", 0), _node("gpu", taint=("dedicated", "ml", "NoSchedule")))

    assert view.misfit is not None
    assert view.misfit.reason is Reason.TAINT_NOT_TOLERATED
    assert view.taints == ("dedicated=ml:NoSchedule",)


@pytest.mark.parametrize(
    "toleration",
    [
        {"operator": "Exists"},
        {"key": "dedicated", "operator": "Exists"},
        {"key": "dedicated", "value": "ml"},
        {"key": "dedicated", "value": "ml", "effect": "NoSchedule"},
    ],
)
def test_a_taint_that_is_tolerated_is_none(toleration: dict[str, str]) -> None:
    view = _pool(_node("gpu", taint=("dedicated", "ml", "NoSchedule")), tolerations=[toleration])

    assert view.misfit is None


@pytest.mark.parametrize(
    "taint",
    [
        ("node.kubernetes.io/not-ready", "", "NoExecute"),
        ("node.kubernetes.io/unschedulable", "", "NoSchedule"),
        ("wish", "", "PreferNoSchedule"),
        ("nvidia.com/gpu", "present", "NoSchedule"),
    ],
)
def test_a_taint_that_passes_or_that_lull_tolerates_is_no_reason_to_warn(taint: tuple[str, str, str]) -> None:
    assert _pool(_node("gpu", taint=taint)).misfit is None


def test_warns_of_matching_nodes_that_are_too_small() -> None:
    check = _check(
        _node("small", 4, labels=L4),
        _node("large", 8),
        parallelism={"tensor": 8},
        placement={"pools": [{"name": "l4", "product": "NVIDIA-L4"}]},
    )

    assert check.refusal is None
    assert check.warnings == ("pool l4: a pod takes 8 nvidia.com/gpu, and none with product NVIDIA-L4 has more than 4",)
