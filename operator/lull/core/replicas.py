"""Which pods are replicas, how many there are, and which of them belong to the spec as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lull.api import names
from lull.api.status import PoolStatus
from lull.api.timestamps import parse_timestamp
from lull.core.manifests import find_revision

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.core.observed import Observed
    from lull.core.views import ScalingView


@dataclass(frozen=True, slots=True)
class Counts:
    existing: int
    ready: int
    asleep: int
    """Of those that are ready."""
    desired: int
    leaving: int
    """Pods that are being deleted."""
    outdated: int
    """Replicas of an earlier revision."""
    created: bool
    """Whether the workloads exist."""


def is_ready(pod: Manifest) -> bool:
    """Whether a pod takes requests now."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    return condition_time(pod, "Ready") is not None


def exists(pod: Manifest) -> bool:
    """Whether a pod counts as a replica: as for a ReplicaSet, one that goes or has ended does not."""
    is_over = (pod.get("status") or {}).get("phase") in {"Failed", "Succeeded"}
    return "deletionTimestamp" not in pod["metadata"] and not is_over


def is_asleep(pod: Manifest) -> bool:
    """Whether gateways spare it, as its engine sleeps: its readiness does not say so."""
    condition = find_condition(pod, names.CONDITION_ASLEEP)
    return condition is not None and condition["status"] == "True"


def find_condition(pod: Manifest, kind: str) -> Manifest | None:
    """A condition of a pod, whatever it says."""
    conditions: list[Manifest] = (pod.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), None)


def condition_time(pod: Manifest, kind: str) -> float | None:
    """When a condition of a pod became true, or None where it is not."""
    condition = find_condition(pod, kind)
    if condition is None or condition["status"] != "True":
        return None
    return parse_timestamp(condition["lastTransitionTime"]) if condition.get("lastTransitionTime") else 0.0


def pool_of(manifest: Manifest) -> str:
    """Name of the pool that a pod or a workload belongs to."""
    name: str = (manifest["metadata"].get("labels") or {}).get(names.LABEL_POOL, "")
    return name


def count(deployment: LLMDeployment, observed: Observed, scaling: ScalingView) -> Counts:
    spec = deployment.spec
    existing = [pod for pod in observed.pods if exists(pod)]
    asked = sum(workload["spec"].get("replicas", 0) for workload in observed.workloads)
    # Before the autoscaler's first decision the spec's own floor stands for it, so that "nothing runs" is not
    # mistaken for "nothing should run".
    floor = spec.scaling.min_replicas if spec.replicas is None else spec.replicas
    return Counts(
        existing=len(existing),
        ready=sum(is_ready(pod) for pod in existing),
        asleep=sum(is_ready(pod) and is_asleep(pod) for pod in existing),
        desired=max(asked, floor) if scaling.desired_replicas is None else scaling.desired_replicas,
        leaving=sum("deletionTimestamp" in pod["metadata"] for pod in observed.pods),
        outdated=len(find_outdated(deployment, existing)),
        created=bool(observed.workloads),
    )


def count_pools(deployment: LLMDeployment, observed: Observed, counts: Counts) -> list[PoolStatus]:
    pools = deployment.spec.placement.pools
    existing = [pod for pod in observed.pods if exists(pod)]
    asked = {pool_of(workload): workload["spec"].get("replicas", 0) for workload in observed.workloads}
    return [
        PoolStatus(
            name=pool.name,
            replicas=sum(pool_of(pod) == pool.name for pod in existing),
            ready_replicas=sum(pool_of(pod) == pool.name and is_ready(pod) for pod in existing),
            desired_replicas=counts.desired if len(pools) == 1 else asked.get(pool.name, 0),
        )
        for pool in pools
    ]


def find_outdated(deployment: LLMDeployment, pods: list[Manifest]) -> list[Manifest]:
    """Pods of another revision than the spec now gives, by their own labels: workloads tell it late."""
    revisions = {pool.name: find_revision(deployment, pool) for pool in deployment.spec.placement.pools}
    return [
        pod
        for pod in pods
        if (revision := (pod["metadata"].get("labels") or {}).get(names.LABEL_REVISION)) is not None
        and revision != revisions.get(pool_of(pod))
    ]


def find_unready(deployment: LLMDeployment, observed: Observed) -> tuple[Manifest, ...]:
    """Pods of the spec as it is now whose words explain why a replica is missing.

    Pods of an earlier revision are on their way out, whatever is wrong with them. A pod that its node put out stays
    as a witness until one that came after it is ready.
    """
    pods = [pod for pod in observed.members if "deletionTimestamp" not in pod["metadata"]]
    outdated = {pod["metadata"]["name"] for pod in find_outdated(deployment, pods)}
    current = [pod for pod in pods if pod["metadata"]["name"] not in outdated]
    ready_since = max((_created(pod) for pod in current if exists(pod) and is_ready(pod)), default="")
    return tuple(
        pod
        for pod in current
        if not is_ready(pod) and (exists(pod) or (_is_failed(pod) and _created(pod) > ready_since))
    )


def _is_failed(pod: Manifest) -> bool:
    return bool((pod.get("status") or {}).get("phase") == "Failed")


def _created(pod: Manifest) -> str:
    """RFC 3339 in UTC sorts as text."""
    created: str = pod["metadata"].get("creationTimestamp", "")
    return created
