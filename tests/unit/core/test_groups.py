"""A replica that spans nodes: what its leader and its workers are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lull.api import names
from lull.api.llmdeployment import LLMDeployment, Manifest
from lull.core.manifests.groups import build_group, member_labels, peers_rule
from lull.core.manifests.pods import build_template
from tests.manifests import SETTINGS, manifest, stored


def _group(**spec: Any) -> tuple[LLMDeployment, Manifest]:
    spec = {"accelerator": {"nodesPerReplica": 2}, "parallelism": {"tensor": 8, "pipeline": 2}, **spec}
    deployment = stored(manifest(**spec))
    return deployment, build_group(deployment, deployment.spec.placement.pools[0], "abc", SETTINGS)


def _members(group: Manifest) -> tuple[Manifest, Manifest]:
    template = group["spec"]["leaderWorkerTemplate"]
    return template["leaderTemplate"], template["workerTemplate"]


def _engine(template: Manifest) -> Manifest:
    (engine,) = (each for each in template["spec"]["containers"] if each["name"] == "engine")
    return dict(engine)


def _flag(template: Manifest, name: str) -> str:
    arguments = _engine(template)["args"]
    return str(arguments[arguments.index(name) + 1])


def test_has_a_pod_for_each_node_and_starts_again_as_one() -> None:
    _, group = _group(accelerator={"nodesPerReplica": 4})

    template = group["spec"]["leaderWorkerTemplate"]

    assert (group["apiVersion"], group["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    assert template["size"] == 4
    assert template["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert "replicas" not in group["spec"]


def test_members_are_numbered_and_find_their_leader() -> None:
    leader, worker = _members(_group()[1])

    assert _flag(leader, "--node-rank") == "0"
    assert _flag(worker, "--node-rank") == "$(LWS_WORKER_INDEX)"
    for member in (leader, worker):
        assert _flag(member, "--nnodes") == "2"
        assert _flag(member, "--master-addr") == "$(LWS_LEADER_ADDRESS)"
        assert int(_flag(member, "--distributed-timeout-seconds")) >= 3600


def test_accelerators_are_spread_evenly_over_the_pods() -> None:
    for member in _members(_group()[1]):
        assert _engine(member)["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert (_flag(member, "--tensor-parallel-size"), _flag(member, "--pipeline-parallel-size")) == ("8", "2")


def test_only_the_leader_serves() -> None:
    leader, worker = _members(_group()[1])

    assert "--headless" not in _engine(leader)["args"]
    assert "--headless" in _engine(worker)["args"]
    assert {"ports", "startupProbe", "readinessProbe", "livenessProbe"} <= _engine(leader).keys()
    assert not {"ports", "startupProbe", "readinessProbe", "livenessProbe"} & _engine(worker).keys()


def test_only_the_leader_is_an_engine_to_services_and_gateways() -> None:
    deployment, group = _group()
    leader, worker = (member["metadata"]["labels"] for member in _members(group))

    assert leader[names.LABEL_COMPONENT] == names.COMPONENT_ENGINE
    assert worker[names.LABEL_COMPONENT] == names.COMPONENT_WORKER
    assert {key: leader[key] for key in leader if key != names.LABEL_COMPONENT} == {
        key: worker[key] for key in worker if key != names.LABEL_COMPONENT
    }
    assert member_labels(deployment).items() <= leader.items()
    assert member_labels(deployment).items() <= worker.items()


def test_what_a_user_may_have_set_for_the_api_server_does_not_stop_a_worker() -> None:
    _, worker = _members(_group(engine={"extraArgs": ["--api-server-count=2"]})[1])

    arguments = _engine(worker)["args"]

    assert arguments[-2:] == ["--api-server-count", "0"]
    assert arguments.index("--api-server-count=2") < len(arguments) - 2


def test_every_member_is_otherwise_the_pod_of_a_replica_on_one_node() -> None:
    deployment, group = _group()
    single = build_template(deployment, deployment.spec.placement.pools[0], "abc", SETTINGS)

    for member in _members(group):
        assert _engine(member)["args"][: len(_engine(single)["args"])] == _engine(single)["args"]
        assert {key: member["spec"][key] for key in ("volumes", "initContainers", "securityContext")} == {
            key: single["spec"][key] for key in ("volumes", "initContainers", "securityContext")
        }
        for key in ("env", "image", "resources", "securityContext", "volumeMounts"):
            assert _engine(member)[key] == _engine(single)[key]


def test_a_worker_stays_until_its_leader_has_closed_its_port() -> None:
    for member in _members(_group()[1]):
        command = _engine(member)["lifecycle"]["preStop"]["exec"]["command"]

        assert command[:2] == ["python3", "-c"]
        compile(command[2], "preStop", "exec")
    assert f'(os.environ["LWS_LEADER_ADDRESS"], {names.PORT_ENGINE})' in command[2]


def test_a_group_stays_together_where_its_pool_has_its_own_affinity() -> None:
    leader, worker = _members(_group(placement={"pools": [{"name": "spot", "capacityType": "Spot"}]})[1])

    for member in (leader, worker):
        affinity = member["spec"]["affinity"]
        (near,) = affinity["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        assert near["podAffinityTerm"]["matchLabelKeys"] == ["leaderworkerset.sigs.k8s.io/group-key"]
        assert affinity["nodeAffinity"]
    assert leader["spec"]["topologySpreadConstraints"]
    assert "topologySpreadConstraints" not in worker["spec"]


@pytest.mark.parametrize(
    ("rollout", "expected"),
    [
        ({}, (1, 0)),
        ({"maxSurge": 0, "maxUnavailable": 2}, (0, 2)),
        ({"maxSurge": "25%", "maxUnavailable": "50%"}, ("25%", "50%")),
        # Half of one replica is none, and LeaderWorkerSet refuses to replace none at a time.
        ({"maxSurge": 0, "maxUnavailable": "50%"}, (0, 1)),
        ({"maxSurge": "0%", "maxUnavailable": "50%"}, ("0%", 1)),
    ],
)
def test_rolls_as_the_spec_says(rollout: Manifest, expected: tuple[int | str, int | str]) -> None:
    _, group = _group(rollout=rollout)

    configuration = group["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]

    assert (configuration["maxSurge"], configuration["maxUnavailable"]) == expected


def test_keeps_the_template_for_later_versions_of_lull() -> None:
    _, group = _group()

    kept = json.loads(group["metadata"]["annotations"][names.ANNOTATION_TEMPLATE])

    assert kept == group["spec"]["leaderWorkerTemplate"]


def test_members_reach_each_other_and_single_pods_have_no_peers() -> None:
    grouped, _ = _group()
    single = stored(manifest())

    assert peers_rule(grouped) == [{"from": [{"podSelector": {"matchLabels": {names.LABEL_DEPLOYMENT: "llama-8b"}}}]}]
    assert peers_rule(single) == []
    assert member_labels(single) == names.engine_labels("llama-8b")


def test_a_name_leaves_room_for_what_is_added_to_it() -> None:
    deployment = stored(
        manifest(
            name="a" * names.NAME_LIMIT,
            accelerator={"nodesPerReplica": 2},
            parallelism={"tensor": 2},
            placement={"pools": [{"name": "a-pool-with-a-name"}]},
        )
    )

    group = build_group(deployment, deployment.spec.placement.pools[0], "abc", SETTINGS)

    assert len(f"{group['metadata']['name']}-999-0123456789") <= 63
