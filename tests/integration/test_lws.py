"""A group as an API server takes it, by LeaderWorkerSet's own schema."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.extras import LWS_CRD, crds
from lull.api.llmdeployment import Manifest, parse_llmdeployment
from lull.core.manifests.groups import build_group
from lull.core.planning import is_scaled
from lull.doors.kube import LEADER_WORKER_SETS, Kube
from tests.manifests import SETTINGS, manifest

_KIND = "leaderworkersets.leaderworkerset.x-k8s.io"


@pytest.fixture(scope="module", autouse=True)
def _crd(apiserver: Any) -> Iterator[None]:
    apiserver.kubectl("apply", "--server-side", "-f", str(crds("lws")))
    # kubectl validates by discovery, which knows of a CRD a moment after it was taken.
    for _ in range(100):
        if "KIND:" in apiserver.kubectl("explain", _KIND, check=False):
            break
        time.sleep(0.2)
    yield
    apiserver.kubectl("delete", "crd", LWS_CRD)


@pytest.fixture
def group(apiserver: Any, namespace: str) -> Manifest:
    written = manifest(
        namespace=namespace,
        model={"source": "hf://org/name", "secretName": "hf"},
        engine={"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]},
        accelerator={"nodesPerReplica": 2},
        parallelism={"tensor": 8, "pipeline": 2},
        rollout={"maxSurge": "25%", "maxUnavailable": 0},
        placement={"pools": [{"name": "spot", "capacityType": "Spot"}]},
    )
    deployment = parse_llmdeployment(written)
    return build_group(deployment, deployment.spec.placement.pools[0], "abc", SETTINGS)


def test_is_taken_whole_and_stays_as_it_is_under_a_second_apply(apiserver: Any, group: Manifest) -> None:
    first = _apply(apiserver, group)
    second = _apply(apiserver, group)

    assert _is_within(group["spec"], first["spec"])
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_its_scale_is_its_number_of_groups(apiserver: Any, group: Manifest, namespace: str) -> None:
    name = _apply(apiserver, group)["metadata"]["name"]

    apiserver.kubectl("--namespace", namespace, "scale", f"{_KIND}/{name}", "--replicas=3")
    scaled = json.loads(apiserver.kubectl("--namespace", namespace, "get", f"{_KIND}/{name}", "-o", "json"))
    again = _apply(apiserver, group)

    assert scaled["spec"]["replicas"] == 3
    assert again["spec"]["replicas"] == 3


async def test_the_autoscaler_takes_its_number_of_groups_over(
    apiserver: Any, kube: Kube, group: Manifest, namespace: str
) -> None:
    name = _apply(apiserver, {**group, "spec": {"replicas": 0, **group["spec"]}})["metadata"]["name"]

    await kube.scale(LEADER_WORKER_SETS, namespace, name, replicas=2)
    scaled = await kube.get(LEADER_WORKER_SETS, namespace, name)
    again = _apply(apiserver, group)

    assert scaled is not None
    assert is_scaled(scaled)
    assert scaled["spec"]["replicas"] == 2
    assert again["spec"]["replicas"] == 2


@pytest.mark.parametrize("member", ["leaderTemplate", "workerTemplate"])
def test_members_pass_the_restricted_pod_security_profile(
    apiserver: Any, group: Manifest, namespace: str, member: str
) -> None:
    apiserver.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    template = group["spec"]["leaderWorkerTemplate"][member]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "member", "namespace": namespace, **template["metadata"]},
        "spec": template["spec"],
    }

    answer = apiserver.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(pod))

    assert "created" in answer


def _apply(apiserver: Any, group: Manifest) -> Manifest:
    answer: Manifest = json.loads(
        apiserver.kubectl(
            *("apply", "--server-side", "--validate=strict", "--field-manager=lull-controller", "-o", "json"),
            *("-f", "-"),
            stdin=json.dumps(group),
        )
    )
    return answer


def _is_within(wanted: Any, found: Any) -> bool:
    """Whether everything that was written is there; defaults may have come to it."""
    if isinstance(wanted, dict):
        return all(key in found and _is_within(value, found[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(map(_is_within, wanted, found))
    return bool(wanted == found)
