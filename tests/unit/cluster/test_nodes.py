"""Nodes and their profiles."""

import datetime as dt
from typing import Any

import pytest

from e2e.cluster.model import NODES, PROFILES, ClusterError, Node, Profile
from e2e.cluster.nodes import choose_nodes, has_profile, is_ready, match_profiles, profile_patches

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=dt.UTC)


def _node(name: str, profile: Profile | None = None, *, ready: str = "True", **spec: Any) -> dict[str, Any]:
    gpus = {"nvidia.com/gpu": "8"} if profile else {}
    heartbeat = "2026-01-02T03:04:05Z"
    return {
        "metadata": {"name": name, "labels": dict(profile.labels) if profile else {}},
        "spec": spec,
        "status": {
            "capacity": gpus,
            "allocatable": gpus,
            "conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat}],
        },
    }


def test_a_node_is_ready_when_it_said_so_since_its_start() -> None:
    assert is_ready(_node("a"))
    assert is_ready(_node("a"), since=NOW)
    assert not is_ready(_node("a"), since=NOW + dt.timedelta(seconds=1))
    assert not is_ready(_node("a", ready="Unknown"))
    assert not is_ready({})


def test_a_kubelet_that_zeroed_the_gpus_took_the_profile_away() -> None:
    node = _node("a", PROFILES[0])
    node["status"]["allocatable"] = {"nvidia.com/gpu": "0"}

    assert not has_profile(node, PROFILES[0])


def test_the_patches_give_what_the_check_asks_for() -> None:
    labels, status = profile_patches(NODES[1])

    assert has_profile({**labels, **status}, NODES[1].profile)


def test_matches_each_profile_with_a_node_of_its_own() -> None:
    nodes = [_node("c", PROFILES[0]), _node("b", PROFILES[2]), _node("a", PROFILES[1])]

    assert match_profiles(nodes) == (Node("c", PROFILES[0]), Node("a", PROFILES[1]), Node("b", PROFILES[2]))
    assert match_profiles(nodes[:2]) is None


def test_adopts_ready_workers_only() -> None:
    control_plane = _node("a")
    control_plane["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = ""
    nodes = [control_plane, _node("b", ready="False"), _node("c", unschedulable=True), *map(_node, "gfed")]

    assert [node.name for node in choose_nodes(nodes)] == ["d", "e", "f"]


def test_says_how_many_workers_are_needed() -> None:
    with pytest.raises(ClusterError, match="has 1 ready worker nodes; 3 are needed"):
        choose_nodes([_node("a")])
