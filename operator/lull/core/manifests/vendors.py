"""What Kubernetes calls the accelerators of each vendor: one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lull.api.compute import Vendor

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest
    from lull.api.spec import LLMDeploymentSpec


@dataclass(frozen=True, slots=True)
class _Names:
    resource: str
    """Extended resource that the vendor's device plugin offers; its nodes usually carry a taint of the same key."""
    product: str
    """Node label that says which product a node has."""


_NAMES: Final = {
    Vendor.NVIDIA: _Names("nvidia.com/gpu", "nvidia.com/gpu.product"),
    Vendor.AMD: _Names("amd.com/gpu", "amd.com/gpu.product-name"),
    Vendor.TPU: _Names("google.com/tpu", "cloud.google.com/gke-tpu-accelerator"),
    # Neuron devices have no label of their own: the instance type says which they are.
    Vendor.NEURON: _Names("aws.amazon.com/neuron", "node.kubernetes.io/instance-type"),
}

PRODUCT_LABELS: Final = {known.resource: known.product for known in _NAMES.values()}
"""By extended resource, the node label by which spec.accelerator.product finds a node."""


def find_resource(spec: LLMDeploymentSpec) -> str | None:
    """Extended resource that engine pods ask for; None for CPU."""
    known = _NAMES.get(spec.accelerator.vendor)
    return spec.accelerator.resource_name or (known.resource if known is not None else None)


def find_product_label(vendor: Vendor) -> str:
    """Node label that a product is looked for in."""
    return _NAMES[vendor].product


def build_tolerations(vendor: Vendor) -> list[Manifest]:
    """Tolerations for the taints that keep others off nodes with this vendor's accelerators."""
    known = _NAMES.get(vendor)
    return [] if known is None else [{"key": known.resource, "operator": "Exists", "effect": "NoSchedule"}]
