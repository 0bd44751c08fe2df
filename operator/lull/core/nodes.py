"""What the nodes that are there could ever give to an LLMDeployment's pods, free or not.

A node that may come is not there yet, so only one thing is refused: more accelerators in a pod than any node has, where
nobody adds nodes. All else is said, and not acted on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.placement import CapacityType
from lull.api.reasons import Reason
from lull.core.manifests.capacity import build_node_affinity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.placement import PoolSpec

_KARPENTER: Final = "karpenter.sh/nodepool"
_PASSING: Final = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
"""Taints by which Kubernetes itself says how a node is just now."""
_CAPACITY: Final = {CapacityType.SPOT: "spot capacity", CapacityType.ON_DEMAND: "on-demand capacity"}


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why no present node can ever take a pod of a pool."""

    reason: Reason
    """NODE_SELECTOR_MISMATCH, INSUFFICIENT_ACCELERATORS or TAINT_NOT_TOLERATED."""
    detail: str


@dataclass(frozen=True, slots=True)
class PoolView:
    """What the nodes are to one pool."""

    name: str = ""
    wishes: str = ""
    """The labels that the pool asks of its nodes, in words; empty where any node will do."""
    is_seen: bool = False
    """Whether nodes could be looked at; where not, what follows is empty and says nothing."""
    misfit: Misfit | None = None
    taints: tuple[str, ...] = ()
    """Taints that keep the pool's pods from nodes which fit otherwise."""


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """What the nodes are to an LLMDeployment."""

    refusal: str | None = None
    """Why it cannot run here as written."""
    pools: Mapping[str, PoolView] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to say of pools that no node can take, in the order of the pools."""
        return tuple(
            f"pool {pool.name}: {pool.misfit.detail}" for pool in self.pools.values() if pool.misfit is not None
        )


UNCHECKED: Final = NodeCheck()


def check_nodes(
    deployment: LLMDeployment, desired: tuple[Manifest, ...], nodes: tuple[Manifest, ...] | None, *, autoscaled: bool
) -> NodeCheck:
    """Hold the pods that are desired against the nodes; `nodes` is None where they may not be read."""
    pods = dict(_pod_specs(desired))
    pools = {
        pool.name: _view(deployment, pool, pods[pool.name], nodes)
        for pool in deployment.spec.placement.pools
        if pool.name in pods
    }
    refusal = None
    if nodes and not autoscaled and not any(_KARPENTER in _labels(node) for node in nodes):
        refusal = next(filter(None, (_find_excess(pod, nodes) for pod in pods.values())), None)
    return NodeCheck(refusal, pools)


def find_capacity_type(labels: dict[str, str]) -> CapacityType:
    """What capacity a node's labels say that it is; ANY where they say nothing."""
    for capacity in (CapacityType.SPOT, CapacityType.ON_DEMAND):
        if _matches({"affinity": build_node_affinity(capacity, None)}, labels):
            return capacity
    return CapacityType.ANY


def _pod_specs(desired: tuple[Manifest, ...]) -> Iterator[tuple[str, Manifest]]:
    """The pod spec of each pool; in a group all pods ask for the same."""
    for manifest in desired:
        match manifest["kind"]:
            case "Deployment":
                template = manifest["spec"]["template"]
            case "LeaderWorkerSet":
                template = manifest["spec"]["leaderWorkerTemplate"]["workerTemplate"]
            case _:
                continue
        yield manifest["metadata"]["labels"][names.LABEL_POOL], template["spec"]


def _view(deployment: LLMDeployment, pool: PoolSpec, pod: Manifest, nodes: tuple[Manifest, ...] | None) -> PoolView:
    wishes = _describe_wishes(deployment, pool)
    if nodes is None:
        return PoolView(pool.name, wishes)
    labelled = [node for node in nodes if _matches(pod, _labels(node))]
    large = [node for node in labelled if all(_has(node, name) >= count for name, count in _devices(pod).items())]
    kept_out = {taint: None for node in large or labelled for taint in _untolerated(pod, node)}
    return PoolView(
        pool.name,
        wishes,
        is_seen=True,
        misfit=_find_misfit(wishes, pod, labelled, large),
        taints=tuple(sorted(kept_out)),
    )


def _find_misfit(wishes: str, pod: Manifest, labelled: list[Manifest], large: list[Manifest]) -> Misfit | None:
    if not labelled:
        return Misfit(Reason.NODE_SELECTOR_MISMATCH, f"no node has {wishes}" if wishes else "there is no node")
    if not large:
        name, count = next(iter(_devices(pod).items()))
        most = max(_has(node, name) for node in labelled)
        with_wishes = f" with {wishes}" if wishes else ""
        has = f"none{with_wishes} has more than {most}" if most else f"no node{with_wishes} has any"
        return Misfit(Reason.INSUFFICIENT_ACCELERATORS, f"a pod takes {count} {name}, and {has}")
    lasting = [[taint for taint in _untolerated(pod, node) if not taint.startswith(_PASSING)] for node in large]
    if all(lasting):
        taints = ", ".join(sorted({taint for each in lasting for taint in each}))
        return Misfit(
            Reason.TAINT_NOT_TOLERATED, f"every node that would fit has a taint that it does not tolerate: {taints}"
        )
    return None


def _find_excess(pod: Manifest, nodes: tuple[Manifest, ...]) -> str | None:
    """More accelerators than any node has; where none has any, their driver may be about to come."""
    for name, count in _devices(pod).items():
        most = max(_has(node, name) for node in nodes)
        if 0 < most < count:
            return f"spec.parallelism: a pod takes {count} {name}, and no node has more than {most}"
    return None


def _describe_wishes(deployment: LLMDeployment, pool: PoolSpec) -> str:
    """What a pool asks of its nodes' labels, as its spec says it."""
    product = pool.product or deployment.spec.accelerator.product
    labels = {**deployment.spec.pod_template.node_selector, **pool.node_selector}
    return " and ".join(
        (
            *(f"label {key}={value}" for key, value in sorted(labels.items())),
            *((f"product {product}",) if product is not None else ()),
            *((_CAPACITY[pool.capacity_type],) if pool.capacity_type in _CAPACITY else ()),
        )
    )


def _devices(pod: Manifest) -> dict[str, int]:
    """Extended resources that a pod asks for."""
    devices: dict[str, int] = {}
    for container in pod["containers"]:
        for name, count in ((container.get("resources") or {}).get("limits") or {}).items():
            if "/" in name:
                devices[name] = devices.get(name, 0) + int(count)
    return devices


def _has(node: Manifest, name: str) -> int:
    """Accelerators of a node, also those whose driver is just away: capacity outlives it."""
    status = node.get("status") or {}
    return max(int((status.get(field) or {}).get(name, 0)) for field in ("capacity", "allocatable"))


def _labels(node: Manifest) -> dict[str, str]:
    return node["metadata"].get("labels") or {}


def _matches(pod: Manifest, labels: dict[str, str]) -> bool:
    """Whether a node with these labels is one that the pod asks for."""
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return all(labels.get(key) == value for key, value in (pod.get("nodeSelector") or {}).items()) and (
        required is None
        or any(
            all(_holds(expression, labels) for expression in term.get("matchExpressions") or ())
            for term in required["nodeSelectorTerms"]
        )
    )


_OPERATORS: Final[Mapping[str, Callable[[str | None, list[str]], bool]]] = {
    "In": lambda label, values: label in values,
    "NotIn": lambda label, values: label not in values,
    "Exists": lambda label, _: label is not None,
    "DoesNotExist": lambda label, _: label is None,
    "Gt": lambda label, values: label is not None and label.isdecimal() and int(label) > int(values[0]),
    "Lt": lambda label, values: label is not None and label.isdecimal() and int(label) < int(values[0]),
}


def _holds(expression: Manifest, labels: dict[str, str]) -> bool:
    return _OPERATORS[expression["operator"]](labels.get(expression["key"]), expression.get("values") or [])


def _untolerated(pod: Manifest, node: Manifest) -> list[str]:
    """Taints that keep a pod from a node, as kubectl writes them."""
    return [
        f"{taint['key']}{'=' + taint['value'] if taint.get('value') else ''}:{taint['effect']}"
        for taint in (node.get("spec") or {}).get("taints") or ()
        if taint["effect"] != "PreferNoSchedule"
        and not any(_tolerates(toleration, taint) for toleration in pod.get("tolerations") or ())
    ]


def _tolerates(toleration: Manifest, taint: Manifest) -> bool:
    return (
        toleration.get("effect") in {None, "", taint["effect"]}
        and toleration.get("key") in {None, "", taint["key"]}
        and (
            toleration.get("operator", "Equal") == "Exists"
            or (toleration.get("value") or "") == (taint.get("value") or "")
        )
    )
