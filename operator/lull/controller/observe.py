"""Read everything that belongs to one LLMDeployment from the API server itself, so that a missed event heals."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lull.api import names
from lull.core.observed import Observed
from lull.doors.kube import DEPLOYMENTS, NETWORK_POLICIES, POD_DISRUPTION_BUDGETS, PODS, SERVICES

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.doors.kube import Kube, Resource


async def observe(kube: Kube, deployment: LLMDeployment) -> Observed:
    """A snapshot of the children: those with our label that this very LLMDeployment controls, and its pods."""
    workloads, services, policies, budgets, pods = await asyncio.gather(
        _list(kube, DEPLOYMENTS, deployment),
        _list(kube, SERVICES, deployment),
        _list(kube, NETWORK_POLICIES, deployment),
        _list(kube, POD_DISRUPTION_BUDGETS, deployment),
        _list(kube, PODS, deployment),
    )
    return Observed(
        workloads=tuple(workload for workload in workloads if _is_owned(workload, deployment)),
        pods=tuple(
            pod for pod in pods if pod["metadata"]["labels"].get(names.LABEL_COMPONENT) == names.COMPONENT_ENGINE
        ),
        others=tuple(other for other in (*services, *policies, *budgets) if _is_owned(other, deployment)),
    )


async def _list(kube: Kube, resource: Resource, deployment: LLMDeployment) -> tuple[Manifest, ...]:
    key = deployment.key
    listing = await kube.list(resource, namespace=key.namespace, labels=f"{names.LABEL_DEPLOYMENT}={key.name}")
    return listing.items


def _is_owned(manifest: Manifest, deployment: LLMDeployment) -> bool:
    """Label alone is a claim that anybody can make; the owner reference with our uid is not."""
    return any(
        owner.get("controller") and owner.get("uid") == deployment.uid
        for owner in manifest["metadata"].get("ownerReferences", ())
    )
