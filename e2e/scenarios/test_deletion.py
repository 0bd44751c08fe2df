"""Deleting works at any time, with or without an operator, and uninstalling leaves nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import openai
import pytest

from e2e.lab import SYSTEM, helm, helm_install, sim_deployment
from e2e.scenarios.clients import ask, load
from e2e.scenarios.conftest import VALUES
from lull.api import names

if TYPE_CHECKING:
    from e2e.lab import Lab

CHILDREN = "deployments,replicasets,pods,services,networkpolicies,poddisruptionbudgets"


async def _nothing_left(lab: Lab, name: str) -> None:
    async def gone() -> bool:
        left = await lab.kubectl("get", CHILDREN, "-l", f"{names.LABEL_DEPLOYMENT}={name}", "-o", "name")
        return not left.strip()

    await lab.until(f"nothing is left of {name}", gone)


async def test_delete_while_asleep(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "sleeper"))
    await lab.until_condition("sleeper", "Ready", "True", "ScaledToZero")

    await lab.kubectl("delete", "llm", "sleeper", "--timeout=20s")

    await _nothing_left(lab, "sleeper")
    with pytest.raises(openai.NotFoundError):
        await ask(lab, "sleeper")


async def test_delete_while_starting(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "starter", sim={"startup": 60}))
    await lab.until_condition("starter", "Ready", "True", "ScaledToZero")
    request = asyncio.create_task(ask(lab, "starter"))
    await lab.until_replicas("starter", 1, ready=False)

    await lab.kubectl("delete", "llm", "starter", "--timeout=20s")

    with pytest.raises(openai.APIStatusError) as told:
        await request
    assert told.value.status_code in {404, 503}
    await _nothing_left(lab, "starter")


async def test_delete_while_serving(lab: Lab) -> None:
    await lab.apply(
        sim_deployment(
            lab.installation,
            "server",
            sim={"decode_tps": 10},
            scaling={"minReplicas": 2},
            rollout={"drain": "60s"},
        )
    )
    await lab.until_replicas("server", 2)
    requests = [asyncio.create_task(ask(lab, "server", tokens=60)) for _ in range(4)]
    await lab.until_asked("server", 4)

    await lab.kubectl("delete", "llm", "server", "--timeout=20s")

    # What was in flight finishes within the drain time.
    assert len(await asyncio.gather(*requests)) == 4
    await _nothing_left(lab, "server")


async def test_delete_with_the_operator_gone(lab: Lab) -> None:
    await lab.apply(sim_deployment(lab.installation, "alone", scaling={"minReplicas": 1}))
    await lab.until_replicas("alone", 1)
    system = lab.installation
    await asyncio.to_thread(system.kubectl, "-n", SYSTEM, "scale", "deployment/lull-operator", "--replicas=0")
    try:
        await asyncio.to_thread(
            system.kubectl, "-n", SYSTEM, "wait", "--for=delete", "pod", "-l", f"{names.LABEL_COMPONENT}=operator"
        )
        async with load(lab, "alone", clients=2) as outcome:
            await asyncio.sleep(2)
        await lab.kubectl("delete", "llm", "alone", "--timeout=20s")
        await _nothing_left(lab, "alone")
    finally:
        await asyncio.to_thread(system.kubectl, "-n", SYSTEM, "scale", "deployment/lull-operator", "--replicas=2")
        await asyncio.to_thread(
            system.kubectl, "-n", SYSTEM, "rollout", "status", "deployment/lull-operator", "--timeout=120s"
        )
    assert outcome.failures == []


async def test_uninstall_leaves_nothing(lab: Lab) -> None:
    system = lab.installation

    def get(*arguments: str) -> list[str]:
        return system.kubectl("get", *arguments, "-o", "name").split()

    async def is_empty() -> bool:
        left = await asyncio.to_thread(
            get, "all,leases,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,pdb", "-n", SYSTEM
        )
        # What Kubernetes itself puts into every namespace.
        return set(left) <= {"configmap/kube-root-ca.crt", "serviceaccount/default"}

    await asyncio.to_thread(helm, system.cluster, "uninstall", "lull", "--wait")
    try:
        await lab.until("Lull's namespace is empty", is_empty)
        cluster_wide = await asyncio.to_thread(get, "clusterroles,clusterrolebindings")
        crd = await asyncio.to_thread(get, "crd", f"{names.PLURAL}.{names.GROUP}")
    finally:
        await asyncio.to_thread(helm_install, system.cluster, system.images["lull"], VALUES)

    assert [line for line in cluster_wide if "lull" in line] == []
    assert crd  # crds.keep: the LLMDeployments outlive the release until the user deletes the CRD
