"""The children as an API server takes them: accepted, stable under a second apply, one writer per field."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from e2e.cluster.extras import Extra, crds
from lull.api import names
from lull.api.llmdeployment import LLMDeployment, Manifest, parse_llmdeployment
from lull.controller.execute import Executor
from lull.core.manifests import build
from lull.core.observed import Observed
from lull.core.planning import identify, is_scaled, plan
from lull.doors.kube import DEPLOYMENTS, RESOURCES, Kube, Transient
from tests.golden.cases import CASES, read_model
from tests.manifests import SETTINGS, manifest

_SETTINGS = replace(SETTINGS, serves_pod_monitors=True, pass_labels=("team",))
_WORKLOADS = ("Deployment", "LeaderWorkerSet")
_OTHERS = ("Service", "NetworkPolicy", "PodDisruptionBudget", "PersistentVolumeClaim", "PodMonitor")
_EXTRAS = {
    Extra.LWS: "leaderworkersets.leaderworkerset.x-k8s.io",
    Extra.PODMONITOR: "podmonitors.monitoring.coreos.com",
}


@pytest.fixture(scope="module", autouse=True)
def _crds(apiserver: Any) -> Iterator[None]:
    """The kinds that a cluster may lack, from the projects that define them."""
    for extra, name in _EXTRAS.items():
        apiserver.kubectl("apply", "--server-side", "-f", str(crds(extra)))
        # kubectl validates by discovery, which knows of a CRD a moment after it was taken.
        for _ in range(100):
            answers = [apiserver.kubectl(verb, name, check=False) for verb in ("get", "explain")]
            if answers[0].startswith("No resources") and "KIND:" in answers[1]:
                break
            time.sleep(0.2)
    yield
    for name in _EXTRAS.values():
        apiserver.kubectl("delete", "crd", name)


async def _create(kube: Kube, written: Manifest, namespace: str) -> LLMDeployment:
    return parse_llmdeployment(
        await kube.apply({**written, "metadata": {**written["metadata"], "namespace": namespace}})
    )


async def _reconcile(kube: Kube, deployment: LLMDeployment) -> Observed:
    """One round, as the operator does it; what is there afterwards."""
    observed = await _observe(kube, deployment)
    todo = plan(build(deployment, _SETTINGS), observed)
    for child in todo.apply:
        await kube.apply(child)
    for child in todo.delete:
        metadata = child["metadata"]
        await kube.delete(RESOURCES[child["kind"]], metadata["namespace"], metadata["name"], uid=metadata["uid"])
    return await _observe(kube, deployment)


async def _observe(kube: Kube, deployment: LLMDeployment) -> Observed:
    async def owned(kind: str) -> tuple[Manifest, ...]:
        listing = await kube.list(
            RESOURCES[kind],
            namespace=deployment.key.namespace,
            labels=f"{names.LABEL_DEPLOYMENT}={deployment.key.name}",
        )
        return listing.items

    workloads = await asyncio.gather(*(owned(kind) for kind in _WORKLOADS))
    others = await asyncio.gather(*(owned(kind) for kind in _OTHERS))
    return Observed(workloads=tuple(sum(workloads, ())), others=tuple(sum(others, ())))


def _versions(observed: Observed) -> dict[str, str]:
    return {
        f"{child['kind']}/{child['metadata']['name']}": child["metadata"]["resourceVersion"]
        for child in (*observed.workloads, *observed.others)
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_second_round_changes_nothing(kube: Kube, namespace: str, case: Any) -> None:
    deployment = await _create(kube, read_model(case), namespace)

    await _reconcile(kube, deployment)
    # The API server stores a claim anew at its first update, though not a field of it differs.
    first = await _reconcile(kube, deployment)
    second = await _reconcile(kube, deployment)

    assert _versions(first) == _versions(second)
    assert {child["kind"] for child in first.others} >= set(_OTHERS) - {"PersistentVolumeClaim"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kubernetes_knows_every_field_that_is_written(apiserver: Any, namespace: str, case: Any) -> None:
    written = read_model(case)
    deployment = parse_llmdeployment({**written, "metadata": {**written["metadata"], "namespace": namespace}})
    children = {"apiVersion": "v1", "kind": "List", "items": list(build(deployment, _SETTINGS))}

    apiserver.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"), stdin=json.dumps(children)
    )


async def test_a_spec_that_changes_becomes_the_other_and_back(kube: Kube, namespace: str) -> None:
    cached = {"source": "hf://org/name", "cache": {"type": "PersistentVolumeClaim", "size": "1Gi"}}
    grouped: Manifest = {"accelerator": {"nodesPerReplica": 2}, "parallelism": {"tensor": 2}, "model": cached}
    single: Manifest = {"model": {"source": "pvc://claim/a"}}

    for spec in (single, grouped, single):
        deployment = await _create(kube, manifest(**spec), namespace)
        observed = await _reconcile(kube, deployment)

        desired = {identify(child) for child in build(deployment, _SETTINGS)}
        found = {
            identify(child)
            for child in (*observed.workloads, *observed.others)
            # Without the controller that lets it go, a claim that was in use stays.
            if "deletionTimestamp" not in child["metadata"]
        }
        assert found == desired


async def test_a_claim_takes_what_may_change_and_is_spared_the_rest(kube: Kube, namespace: str) -> None:
    first = {"type": "PersistentVolumeClaim", "size": "1Gi", "storageClassName": "slow"}
    later: list[Manifest] = [
        {"type": "PersistentVolumeClaim", "size": "1Gi", "accessMode": "ReadWriteOnce"},
        {"type": "PersistentVolumeClaim", "size": "1Gi", "storageClassName": "fast"},
        {"type": "PersistentVolumeClaim", "size": "512Mi"},
    ]

    for cache in (first, *later):
        model = {"source": "hf://org/name", "cache": cache}
        observed = await _reconcile(kube, await _create(kube, manifest(model=model), namespace))

        (claim,) = (child for child in observed.others if child["kind"] == "PersistentVolumeClaim")
        assert claim["spec"]["storageClassName"] == "slow"
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {
            "model": {
                "source": "s3://bucket/a",
                "secretName": "a",
                "cache": {"type": "PersistentVolumeClaim", "size": "1Gi"},
            },
            "engine": {"speculative": {"method": "Draft", "model": "hf://org/small"}, "compileCache": "ModelCache"},
            "adapters": {"secretName": "b"},
            "podTemplate": {"securityContext": {"runAsUser": 1000, "runAsGroup": 5, "supplementalGroups": [44]}},
        },
    ],
    ids=["least", "much"],
)
async def test_children_pass_the_restricted_pod_security_profile(
    kube: Kube, namespace: str, apiserver: Any, spec: Manifest
) -> None:
    apiserver.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    (workload,) = (await _reconcile(kube, await _create(kube, manifest(**spec), namespace))).workloads
    template = workload["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "engine", "namespace": namespace, **template["metadata"]},
        "spec": template["spec"],
    }

    answer = apiserver.kubectl("create", "-f", "-", stdin=yaml.safe_dump(pod))

    assert answer == "pod/engine created\n"


async def test_the_replica_count_is_born_at_zero_and_then_the_autoscalers(kube: Kube, namespace: str) -> None:
    deployment = await _create(kube, manifest(), namespace)
    (born,) = (await _reconcile(kube, deployment)).workloads
    name = born["metadata"]["name"]

    await kube.scale(DEPLOYMENTS, namespace, name, replicas=2)
    (scaled,) = (await _reconcile(kube, deployment)).workloads

    assert born["spec"]["replicas"] == 0
    assert not is_scaled(born)
    assert scaled["spec"]["replicas"] == 2
    assert is_scaled(scaled)
    assert all(
        "f:replicas" not in entry["fieldsV1"].get("f:spec", {})
        for entry in scaled["metadata"]["managedFields"]
        if entry["manager"] == names.MANAGER_CONTROLLER
    )


async def test_a_reconcile_that_looked_before_the_autoscaler_scaled_resets_nothing(kube: Kube, namespace: str) -> None:
    deployment = await _create(kube, manifest(), namespace)
    born = await _reconcile(kube, deployment)
    stale = plan(build(deployment, _SETTINGS), born)
    (name,) = (child["metadata"]["name"] for child in stale.apply if identify(child) in stale.yielding)
    await kube.scale(DEPLOYMENTS, namespace, name, replicas=2)

    with pytest.raises(Transient, match="lull-autoscaler"):
        await Executor(kube, learn=lambda _: None).execute(deployment.key, stale, born)

    (scaled,) = (await _observe(kube, deployment)).workloads
    assert scaled["spec"]["replicas"] == 2
    assert is_scaled(scaled)


async def test_the_autoscaler_owns_the_count_even_where_it_does_not_change(kube: Kube, namespace: str) -> None:
    deployment = await _create(kube, manifest(), namespace)
    (born,) = (await _reconcile(kube, deployment)).workloads

    await kube.scale(DEPLOYMENTS, namespace, born["metadata"]["name"], replicas=0)
    (scaled,) = (await _reconcile(kube, deployment)).workloads

    assert is_scaled(scaled)
    assert scaled["spec"]["replicas"] == 0


async def test_a_newer_operator_restarts_nothing(kube: Kube, namespace: str) -> None:
    deployment = await _create(kube, manifest(), namespace)
    (before,) = (await _reconcile(kube, deployment)).workloads
    newer = build(deployment, replace(_SETTINGS, image="lull/lull:9.9.9", hub_endpoint="https://mirror.example"))

    for child in plan(newer, Observed(workloads=(before,))).apply:
        await kube.apply(child)

    (after,) = (await _observe(kube, deployment)).workloads
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_drift_is_healed(kube: Kube, namespace: str) -> None:
    deployment = await _create(kube, manifest(), namespace)
    (before,) = (await _reconcile(kube, deployment)).workloads
    containers = before["spec"]["template"]["spec"]["containers"]
    drifted = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": before["metadata"]["name"], "namespace": namespace},
        "spec": {"template": {"spec": {"containers": [{"name": "engine", "image": "other"}]}}},
    }
    await kube.apply(drifted, manager="someone")

    (healed,) = (await _reconcile(kube, deployment)).workloads

    assert healed["spec"]["template"]["spec"]["containers"] == containers
