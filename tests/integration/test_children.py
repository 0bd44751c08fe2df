"""The children as an API server takes them: accepted, stable under a second apply, one writer per field."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lull.api import names
from lull.api.llmdeployment import LLMDeployment, Manifest, parse_llmdeployment
from lull.controller.execute import Executor
from lull.core.manifests import build
from lull.core.observed import Observed
from lull.core.planning import identify, is_scaled, plan
from lull.doors.kube import DEPLOYMENTS, RESOURCES, Kube, Transient
from tests.golden.cases import CASES, read_model
from tests.manifests import SETTINGS, manifest


async def _create(kube: Kube, written: Manifest, namespace: str) -> LLMDeployment:
    return parse_llmdeployment(
        await kube.apply({**written, "metadata": {**written["metadata"], "namespace": namespace}})
    )


async def _reconcile(kube: Kube, deployment: LLMDeployment) -> Observed:
    """One round, as the operator does it; what is there afterwards."""
    observed = await _observe(kube, deployment)
    todo = plan(build(deployment, SETTINGS), observed)
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

    return Observed(
        workloads=await owned("Deployment"),
        others=(*await owned("Service"), *await owned("NetworkPolicy"), *await owned("PodDisruptionBudget")),
    )


def _versions(observed: Observed) -> dict[str, str]:
    return {
        f"{child['kind']}/{child['metadata']['name']}": child["metadata"]["resourceVersion"]
        for child in (*observed.workloads, *observed.others)
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_second_round_changes_nothing(kube: Kube, namespace: str, case: Any) -> None:
    deployment = await _create(kube, read_model(case), namespace)

    first = await _reconcile(kube, deployment)
    second = await _reconcile(kube, deployment)

    assert _versions(first) == _versions(second)
    assert len(first.others) == 3


async def test_children_pass_the_restricted_pod_security_profile(kube: Kube, namespace: str, apiserver: Any) -> None:
    apiserver.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    (workload,) = (await _reconcile(kube, await _create(kube, manifest(), namespace))).workloads
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
    stale = plan(build(deployment, SETTINGS), born)
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
    newer = build(deployment, type(SETTINGS)("lull/lull:9.9.9", "Always", "https://mirror.example", "lull-system"))

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
