"""How clouds label and taint spot and on-demand nodes: one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.api.names import LABEL_CAPACITY_TYPE
from lull.api.placement import CapacityType

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest

CAPACITY_LABELS: Final = {CapacityType.ANY: "any", CapacityType.SPOT: "spot", CapacityType.ON_DEMAND: "on-demand"}
"""Values of the label lull.dev/capacity-type, on pods and on nodes."""

# Each row is one way in which a node can say what it is; rows are alternatives, expressions within a row go together.
# Where a cloud labels its spot nodes only, being on-demand is "a node of this cloud, without that label".
_TERMS: Final[dict[CapacityType, tuple[tuple[tuple[str, str, tuple[str, ...]], ...], ...]]] = {
    CapacityType.ANY: (),
    CapacityType.SPOT: (
        ((LABEL_CAPACITY_TYPE, "In", ("spot",)),),
        (("karpenter.sh/capacity-type", "In", ("spot",)),),
        (("eks.amazonaws.com/capacityType", "In", ("SPOT",)),),
        (("cloud.google.com/gke-spot", "In", ("true",)),),
        (("kubernetes.azure.com/scalesetpriority", "In", ("spot",)),),
    ),
    CapacityType.ON_DEMAND: (
        ((LABEL_CAPACITY_TYPE, "In", ("on-demand",)),),
        (("karpenter.sh/capacity-type", "In", ("on-demand", "reserved")),),
        (("eks.amazonaws.com/capacityType", "In", ("ON_DEMAND",)),),
        (("cloud.google.com/gke-nodepool", "Exists", ()), ("cloud.google.com/gke-spot", "DoesNotExist", ())),
        (("kubernetes.azure.com/cluster", "Exists", ()), ("kubernetes.azure.com/scalesetpriority", "NotIn", ("spot",))),
    ),
}

_SPOT_TOLERATIONS: Final = (
    {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
    {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
)


def build_node_affinity(capacity: CapacityType, product: tuple[str, str] | None) -> Manifest:
    """Node affinity for a capacity type and the label of a product, or nothing where any node will do."""
    wanted = [_expression(product[0], "In", (product[1],))] if product is not None else []
    terms = [
        {"matchExpressions": [*(_expression(*expression) for expression in row), *wanted]} for row in _TERMS[capacity]
    ]
    if not terms and wanted:
        terms = [{"matchExpressions": wanted}]
    if not terms:
        return {}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def build_spot_tolerations(capacity: CapacityType) -> list[Manifest]:
    """Tolerations for the taints of spot nodes, where they will do; each list is new, so it may be spliced."""
    return [dict(toleration) for toleration in _SPOT_TOLERATIONS] if capacity is not CapacityType.ON_DEMAND else []


def _expression(key: str, operator: str, values: tuple[str, ...]) -> Manifest:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
