"""On which nodes the pods of a pool may run, and how they spread over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.model import AccessMode
from lull.api.placement import TopologySpreadConstraint
from lull.core.manifests.capacity import build_node_affinity, build_spot_tolerations
from lull.core.manifests.vendors import build_tolerations, find_product_label
from lull.core.manifests.volumes import build_claim_spec, find_access_mode

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.placement import PoolSpec

# A zone that fails takes a share of the replicas along; where there is but one zone, nothing is lost by asking.
_OVER_ZONES: Final = TopologySpreadConstraint(max_skew=1, topology_key="topology.kubernetes.io/zone")


def build_placing(deployment: LLMDeployment, pool: PoolSpec) -> Manifest:
    """The fields of a pod's spec that say where it may run."""
    spec = deployment.spec
    wanted = spec.pod_template
    node_selector = {**wanted.node_selector, **pool.node_selector}
    affinity = _build_affinity(deployment, pool)
    spread = wanted.topology_spread_constraints or [_OVER_ZONES]
    return {
        **({"nodeSelector": node_selector} if node_selector else {}),
        **({"affinity": affinity} if affinity else {}),
        "tolerations": [
            *build_tolerations(spec.accelerator.vendor),
            *build_spot_tolerations(pool.capacity_type),
            *(
                toleration.model_dump(mode="json", exclude_none=True)
                for toleration in (*wanted.tolerations, *pool.tolerations)
            ),
        ],
        "topologySpreadConstraints": [
            {
                **constraint.model_dump(mode="json"),
                "labelSelector": {"matchLabels": names.engine_labels(deployment.key.name)},
            }
            for constraint in spread
        ],
    }


def _build_affinity(deployment: LLMDeployment, pool: PoolSpec) -> Manifest:
    accelerator, cache = deployment.spec.accelerator, deployment.spec.model.cache
    product = pool.product or accelerator.product
    label = (find_product_label(accelerator.vendor), product) if product is not None else None
    return {
        **build_node_affinity(pool.capacity_type, label),
        **(
            _beside_each_other(deployment)
            if build_claim_spec(cache) is not None and find_access_mode(cache) is AccessMode.READ_WRITE_ONCE
            else {}
        ),
    }


def _beside_each_other(deployment: LLMDeployment) -> Manifest:
    """Affinity to the node that other replicas run on: a ReadWriteOnce volume is on one node at a time."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": names.engine_labels(deployment.key.name)},
    }
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
