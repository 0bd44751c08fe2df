from __future__ import annotations

from typing import Any

import pytest

from lull.api.llmdeployment import Manifest
from lull.api.timestamps import parse_timestamp
from lull.cli.cluster import to_json
from lull.cli.status import render
from lull.core.overview import build_overview
from tests.manifests import manifest

NOW = parse_timestamp("2026-11-18T09:46:40Z")


def _model(*, status: Manifest | None = None, **spec: Any) -> Manifest:
    return {**manifest(**spec), "status": status or {}}


def _condition(kind: str, status: str, reason: str, message: str = "") -> Manifest:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-18T09:46:35Z",
    }


def _pod(
    name: str, pool: str = "default", *, node: str = "", metadata: Manifest | None = None, **status: Any
) -> Manifest:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"lull.dev/pool": pool, "lull.dev/deployment": "llama-8b"},
            "creationTimestamp": "2026-11-18T09:45:40Z",
            **(metadata or {}),
        },
        "spec": {"nodeName": node} if node else {},
        "status": status,
    }


READY = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-18T09:46:35Z"}]
UNSCHEDULABLE = [
    {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "lastTransitionTime": "2026-11-18T09:46:35Z",
    }
]
NODE = {
    "metadata": {
        "name": "node-a",
        "labels": {"karpenter.sh/capacity-type": "spot", "topology.kubernetes.io/zone": "zone-a"},
    },
    "spec": {"unschedulable": True},
}


def _text(overview: Any) -> str:
    from rich.console import Console

    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(render(overview, NOW))
    return capture.get()


def test_shows_the_tree_down_to_the_node() -> None:
    status = {
        "summary": "1/2",
        "accelerator": "1x NVIDIA-L4",
        "pools": [{"name": "default", "replicas": 2, "readyReplicas": 1, "desiredReplicas": 2}],
        "conditions": [_condition("Ready", "True", "Serving", "1 of 2 replicas ready.")],
    }
    pods = [_pod("b", conditions=UNSCHEDULABLE), _pod("a", node="node-a", conditions=READY)]

    text = _text(build_overview(_model(status=status), pods, {"node-a": NODE}))

    lines = text.splitlines()
    assert lines[0] == "● default/llama-8b  1/2  Serving  hf://org/name  1x NVIDIA-L4"
    assert "pool default  1/2  Any" in lines[2]
    assert "a  Ready  node-a (spot, zone-a, cordoned)  1m" in lines[3]
    assert "b  " in lines[4]
    assert "3 Insufficient nvidia.com/gpu" in lines[4]


@pytest.mark.parametrize(
    ("labels", "capacity"),
    [
        ({"lull.dev/capacity-type": "on-demand"}, "on-demand"),
        ({"eks.amazonaws.com/capacityType": "SPOT"}, "spot"),
        ({"cloud.google.com/gke-nodepool": "a"}, "on-demand"),
        ({"kubernetes.io/hostname": "a"}, ""),
    ],
)
def test_knows_the_capacity_of_a_node_as_pools_do(labels: dict[str, str], capacity: str) -> None:
    nodes = {"n": {"metadata": {"name": "n", "labels": labels}}}

    (pool,) = build_overview(_model(), [_pod("a", node="n")], nodes).pools

    assert pool.pods[0].node is not None
    assert pool.pods[0].node.capacity_type == capacity


def test_tells_a_pod_that_sleeps_from_one_that_serves() -> None:
    conditions = [{"type": kind, "status": "True"} for kind in ("Ready", "lull.dev/Asleep")]

    (pool,) = build_overview(_model(), [_pod("a", conditions=conditions)], {}).pools

    assert (pool.pods[0].state, pool.pods[0].message) == ("Asleep", "holds its accelerators; a request wakes it")


def test_says_what_each_pod_that_starts_is_doing() -> None:
    running = {"running": {"startedAt": "2026-11-18T09:46:35Z"}}
    waiting = {"waiting": {"reason": "PodInitializing"}}
    pods = [
        _pod("a"),
        _pod("b", node="n", initContainerStatuses=[{"name": "fetch", "state": waiting}]),
        _pod("c", node="n", initContainerStatuses=[{"name": "fetch", "state": running}]),
        _pod("d", node="n", containerStatuses=[{"name": "engine", "state": running, "ready": False}]),
        _pod("e", node="n", metadata={"deletionTimestamp": "2026-11-18T09:46:35Z"}),
    ]

    (pool,) = build_overview(_model(), pods, {}).pools

    assert [(pod.state, pod.message) for pod in pool.pods] == [
        ("Starting", "waits for a node"),
        ("Starting", "pulls images"),
        ("Starting", "runs fetch"),
        ("Starting", "loads the model"),
        ("Leaving", "finishes what it works on"),
    ]


def test_shows_pools_of_the_spec_first_and_then_those_that_are_emptied() -> None:
    model = _model(placement={"pools": [{"name": "spot", "capacityType": "Spot"}, {"name": "od"}]})

    pools = build_overview(model, [_pod("a", "old"), _pod("b", "od")], {}).pools

    assert [(pool.name, pool.capacity_type, len(pool.pods)) for pool in pools] == [
        ("spot", "Spot", 0),
        ("od", "Any", 1),
        ("old", "", 1),
    ]


def test_repeats_no_reason_and_hides_what_is_abnormal_when_true() -> None:
    status = {
        "conditions": [
            _condition("Ready", "False", "SourceNotFound", "no such model"),
            _condition("WorkloadsReady", "False", "SourceNotFound", "no such model"),
            _condition("Reconciling", "False", "Settled"),
            _condition("ScalingActive", "False", "MetricsUnavailable", "gateways are silent"),
        ]
    }

    overview = build_overview(_model(status=status), [], {})

    assert [(one.type, one.reason) for one in overview.complaints] == [("ScalingActive", "MetricsUnavailable")]
    assert _text(overview).count("no such model") == 1


def test_shows_adapters_cold_start_and_the_last_decision() -> None:
    status = {
        "adapters": [{"name": "fr", "state": "Failed", "readyReplicas": 0, "message": "rank 64 is over 16"}],
        "coldStart": {
            "at": "2026-11-18T09:40:00Z",
            "scheduled": "1s",
            "image": "2s",
            "weights": "3s",
            "warmUp": "4s",
            "total": "10s",
        },
        "decisions": [
            {
                "at": "2026-11-18T09:45:40Z",
                "fromReplicas": 0,
                "toReplicas": 1,
                "reason": "Activated",
                "message": "1 request is held.",
            }
        ],
    }

    text = _text(build_overview(_model(status=status), [], {}))

    assert "adapter fr  Failed  on 0  rank 64 is over 16" in text
    assert "last cold start 10s: node 1s, image 2s, weights 3s, warm-up 4s" in text
    assert "last decision 0 → 1, 1m ago: Activated. 1 request is held." in text


def test_an_object_that_nobody_looked_at_says_so() -> None:
    overview = build_overview(manifest(), [], {})

    assert (overview.is_ready, overview.reason) == (False, "Unseen")
    assert "lull doctor" in overview.message


def test_an_object_that_cannot_be_read_is_shown_with_the_reason() -> None:
    overview = build_overview(manifest(model={"source": "nonsense"}), [], {})

    assert overview.reason == "InvalidSpec"
    assert "spec.model.source" in _text(overview)


def test_json_has_the_keys_of_the_api() -> None:
    shown = to_json(build_overview(_model(), [_pod("a", node="node-a", conditions=READY)], {"node-a": NODE}))

    assert shown["isReady"] is False
    assert shown["pools"][0]["pods"][0]["node"]["capacityType"] == "spot"
