"""Read everything that belongs to one LLMDeployment from the API server itself, so that a missed event heals."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lull.api import names
from lull.core.observed import Observed, is_owned
from lull.core.planning import identify
from lull.doors.kube import (
    DEPLOYMENTS,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    RESOURCES,
    SERVICES,
    Transient,
)

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.doors.kube import Kube, Resource


async def observe(kube: Kube, deployment: LLMDeployment, desired: tuple[Manifest, ...]) -> Observed:
    """A snapshot of the children: those with our label that this very LLMDeployment controls, and its pods.

    What is desired and not among them is looked up by name: a label may have been lost, and a name may be taken.
    """
    workloads, services, policies, budgets, pods = await asyncio.gather(
        _list(kube, DEPLOYMENTS, deployment),
        _list(kube, SERVICES, deployment),
        _list(kube, NETWORK_POLICIES, deployment),
        _list(kube, POD_DISRUPTION_BUDGETS, deployment),
        _list(kube, PODS, deployment),
    )
    labelled = [child for child in (*workloads, *services, *policies, *budgets) if is_owned(child, deployment)]
    namesakes = await _find_namesakes(kube, desired, labelled)
    for namesake in namesakes:
        _wait_for_predecessor(namesake, deployment)
    children = [*labelled, *(namesake for namesake in namesakes if is_owned(namesake, deployment))]
    return Observed(
        workloads=tuple(child for child in children if child["kind"] == DEPLOYMENTS.kind),
        pods=tuple(
            pod for pod in pods if pod["metadata"]["labels"].get(names.LABEL_COMPONENT) == names.COMPONENT_ENGINE
        ),
        others=tuple(child for child in children if child["kind"] != DEPLOYMENTS.kind),
        foreign=tuple(namesake for namesake in namesakes if not is_owned(namesake, deployment)),
    )


async def _list(kube: Kube, resource: Resource, deployment: LLMDeployment) -> tuple[Manifest, ...]:
    key = deployment.key
    listing = await kube.list(resource, namespace=key.namespace, labels=f"{names.LABEL_DEPLOYMENT}={key.name}")
    return listing.items


async def _find_namesakes(kube: Kube, desired: tuple[Manifest, ...], children: list[Manifest]) -> list[Manifest]:
    """Objects that bear the names of desired children which are not there."""
    there = {identify(child) for child in children}
    missing = [child for child in desired if identify(child) not in there]
    found = await asyncio.gather(
        *(
            kube.get(RESOURCES[child["kind"]], child["metadata"]["namespace"], child["metadata"]["name"])
            for child in missing
        )
    )
    return [namesake for namesake in found if namesake is not None]


def _wait_for_predecessor(namesake: Manifest, deployment: LLMDeployment) -> None:
    """Children of an LLMDeployment that bore the same name are about to be collected: no reason to worry anybody."""
    for owner in namesake["metadata"].get("ownerReferences", ()):
        is_ours = owner.get("kind") == names.KIND and owner.get("name") == deployment.key.name
        if is_ours and owner.get("controller") and owner.get("uid") != deployment.uid:
            raise Transient(f"{' '.join(identify(namesake))} still belongs to a deleted {names.KIND} of the same name")
