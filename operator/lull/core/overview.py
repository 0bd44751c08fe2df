"""What `lull status` shows of an LLMDeployment: pools, their pods, the nodes under them, and why what is not ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, parse_llmdeployment
from lull.api.placement import CapacityType
from lull.api.reasons import ConditionType
from lull.core.manifests.capacity import CAPACITY_LABELS
from lull.core.nodes import find_capacity_type
from lull.core.replicas import is_asleep, is_ready
from lull.core.troubles import find_trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.status import AdapterStatus, ColdStart, DecisionRecord


@dataclass(frozen=True, slots=True)
class NodeView:
    name: str
    capacity_type: str
    """spot, on-demand, or empty where the node does not say."""
    zone: str
    product: str
    is_closed: bool
    """Cordoned: takes no new pods."""


@dataclass(frozen=True, slots=True)
class PodView:
    name: str
    state: str
    """Ready, Asleep, Leaving, the reason of its trouble, or the stage of its start."""
    message: str
    created_at: str
    restarts: int
    node: NodeView | None


@dataclass(frozen=True, slots=True)
class PoolView:
    name: str
    capacity_type: str
    replicas: int
    ready_replicas: int
    desired_replicas: int
    pods: tuple[PodView, ...]


@dataclass(frozen=True, slots=True)
class Complaint:
    """A condition that a person should know of."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Overview:
    namespace: str
    name: str
    model: str
    served_names: tuple[str, ...]
    is_ready: bool
    reason: str
    message: str
    summary: str
    accelerator: str
    url: str
    complaints: tuple[Complaint, ...]
    pools: tuple[PoolView, ...]
    adapters: tuple[AdapterStatus, ...]
    cold_start: ColdStart | None
    last_decision: DecisionRecord | None


_ABNORMAL = frozenset({ConditionType.RECONCILING, ConditionType.STALLED})
"""Conditions that are bad news, or none, when they are true; what they say stands in the others, too."""


def build_overview(manifest: Manifest, pods: Iterable[Manifest], nodes: Mapping[str, Manifest]) -> Overview:
    """All that is shown of one LLMDeployment; `pods` are its engines', `nodes` those that may be read, by name."""
    try:
        deployment = parse_llmdeployment(manifest)
    except InvalidSpec as error:
        return _unreadable(manifest, str(error))
    status = deployment.status
    ready = status.find_condition(ConditionType.READY)
    views = [(pod, _view_pod(pod, nodes)) for pod in sorted(pods, key=lambda pod: pod["metadata"]["name"])]
    return Overview(
        namespace=deployment.key.namespace,
        name=deployment.key.name,
        model=deployment.spec.model.source,
        served_names=deployment.served_names,
        is_ready=ready is not None and ready.status == "True",
        reason=ready.reason if ready else "Unseen",
        message=ready.message if ready else "No operator has looked at it yet: see `lull doctor`.",
        summary=status.summary,
        accelerator=status.accelerator,
        url=status.url,
        complaints=tuple(
            Complaint(condition.type, condition.reason, condition.message)
            for condition in status.conditions
            if condition.type not in {ConditionType.READY, *_ABNORMAL}
            and condition.status == "False"
            and not (ready and condition.reason == ready.reason)
        ),
        pools=_view_pools(deployment, views),
        adapters=tuple(status.adapters),
        cold_start=status.cold_start,
        last_decision=status.decisions[0] if status.decisions else None,
    )


def _view_pools(deployment: LLMDeployment, views: list[tuple[Manifest, PodView]]) -> tuple[PoolView, ...]:
    """Pools of the spec, then those that are being emptied."""
    counts = {pool.name: pool for pool in deployment.status.pools}
    types = {pool.name: pool.capacity_type.value for pool in deployment.spec.placement.pools}
    members: dict[str, list[PodView]] = {}
    for pod, view in views:
        members.setdefault(pod["metadata"].get("labels", {}).get(names.LABEL_POOL, ""), []).append(view)
    return tuple(
        PoolView(
            name=name,
            capacity_type=types.get(name, ""),
            replicas=counts[name].replicas if name in counts else len(members.get(name, ())),
            ready_replicas=counts[name].ready_replicas if name in counts else 0,
            desired_replicas=counts[name].desired_replicas if name in counts else 0,
            pods=tuple(members.get(name, ())),
        )
        for name in dict.fromkeys([*types, *members])
    )


def _view_pod(pod: Manifest, nodes: Mapping[str, Manifest]) -> PodView:
    metadata, status = pod["metadata"], pod.get("status") or {}
    trouble = None if is_ready(pod) else find_trouble((), (pod,))
    if "deletionTimestamp" in metadata:
        state, message = "Leaving", "finishes what it works on"
    elif is_ready(pod) and is_asleep(pod):
        state, message = "Asleep", "holds its accelerators; a request wakes it"
    elif is_ready(pod):
        state, message = "Ready", ""
    elif trouble is not None:
        state, message = trouble[0].reason.value, trouble[0].detail
    else:
        state, message = "Starting", _find_stage(pod)
    containers = status.get("containerStatuses") or ()
    name = (pod.get("spec") or {}).get("nodeName", "")
    return PodView(
        name=metadata["name"],
        state=state,
        message=message,
        created_at=metadata.get("creationTimestamp", ""),
        restarts=sum(container.get("restartCount", 0) for container in containers),
        node=_view_node(name, nodes.get(name)) if name else None,
    )


def _find_stage(pod: Manifest) -> str:
    """What a pod that starts is doing."""
    if not (pod.get("spec") or {}).get("nodeName"):
        return "waits for a node"
    status = pod.get("status") or {}
    for container in status.get("initContainerStatuses") or ():
        if "running" in (container.get("state") or {}) and not container.get("started"):
            return f"runs {container['name']}"
    if any("running" in (container.get("state") or {}) for container in status.get("containerStatuses") or ()):
        return "loads the model"
    return "pulls images"


def _view_node(name: str, node: Manifest | None) -> NodeView:
    labels = node["metadata"].get("labels", {}) if node else {}
    capacity = find_capacity_type(labels)
    return NodeView(
        name=name,
        capacity_type="" if capacity is CapacityType.ANY else CAPACITY_LABELS[capacity],
        zone=labels.get("topology.kubernetes.io/zone", ""),
        product=labels.get("nvidia.com/gpu.product", ""),
        is_closed=bool(node and (node.get("spec") or {}).get("unschedulable")),
    )


def _unreadable(manifest: Manifest, problem: str) -> Overview:
    metadata = manifest["metadata"]
    return Overview(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        model="",
        served_names=(),
        is_ready=False,
        reason="InvalidSpec",
        message=problem,
        summary="",
        accelerator="",
        url="",
        complaints=(),
        pools=(),
        adapters=(),
        cold_start=None,
        last_decision=None,
    )
