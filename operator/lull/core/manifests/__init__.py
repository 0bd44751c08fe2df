"""From an LLMDeployment to the Kubernetes objects that serve it."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, LLMDeployment, Manifest
from lull.api.model import AccessMode, CacheSpec, CacheType
from lull.api.reasons import Reason
from lull.core.manifests.groups import build_group, is_grouped, member_labels, peers_rule
from lull.core.manifests.metadata import build_metadata, build_workload_metadata, canonical, freeze
from lull.core.manifests.pods import build_template, pool_labels
from lull.core.manifests.settings import BuildSettings
from lull.core.manifests.volumes import build_claim_spec
from lull.core.schedules import check_schedules

if TYPE_CHECKING:
    from lull.api.base import ApiModel
    from lull.api.placement import PoolSpec

__all__ = ["BuildSettings", "build", "find_revision"]

_FIRST_IMAGE: Final = "vllm/vllm-openai:v0.33.0"
"""Written by the first version of Lull into each object that named no image, as a default that its digests left out."""


def build(deployment: LLMDeployment, settings: BuildSettings) -> tuple[Manifest, ...]:
    """Everything that should exist for an LLMDeployment, in the order in which to apply it.

    Workloads come without `spec.replicas`: that field is the autoscaler's, and `plan` sees to its birth.
    InvalidSpec where the spec cannot work as written, or not in this cluster.
    """
    name = deployment.key.name
    if len(name) > names.NAME_LIMIT or re.match(names.NAME_PATTERN, name) is None:
        raise InvalidSpec(names.NAME_RULE)
    check_schedules(deployment.spec.scaling)
    _check_groups(deployment, settings)
    build_workload = build_group if is_grouped(deployment) else _build_deployment
    return (
        _build_network_policy(deployment, settings),
        _build_service(deployment, settings),
        _build_disruption_budget(deployment, settings),
        *_build_claim(deployment, settings),
        *([_build_pod_monitor(deployment, settings)] if settings.serves_pod_monitors else []),
        *(
            build_workload(deployment, pool, find_revision(deployment, pool), settings)
            for pool in deployment.spec.placement.pools
        ),
    )


def find_revision(deployment: LLMDeployment, pool: PoolSpec) -> str:
    """Digest of what a pool's pods depend on in the spec, and of nothing else.

    Fields at their default are left out, so that one which a later version adds changes no digest. An image that Lull
    chose is left out too: it stays until the pods change for another reason.
    """
    spec = deployment.spec
    image = spec.engine.image
    inputs = {
        "model": _dump(spec.model, exclude=_cache_at_rest(spec.model.cache)),
        "engine": _dump(spec.engine, exclude={"image": True} if image == _FIRST_IMAGE else None),
        "parallelism": _dump(spec.parallelism),
        "accelerator": _dump(spec.accelerator),
        "resources": _dump(spec.resources),
        **({"image": image} if image is not None else {}),
        "pool": _dump(pool, exclude={"max_replicas": True}),
        "drain": spec.rollout.drain,
        "names": [deployment.key.name, *deployment.served_names],
        **({"adapters": _dump(spec.adapters, exclude={"items": True})} if spec.adapters is not None else {}),
        **({"sleep": True} if spec.scaling.sleep is not None else {}),
        **({"podTemplate": template} if (template := _dump(spec.pod_template)) else {}),
    }
    return sha256(canonical(inputs).encode()).hexdigest()[:10]


def _dump(part: ApiModel, *, exclude: dict[str, Any] | None = None) -> Manifest:
    return part.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=exclude)


def _cache_at_rest(cache: CacheSpec) -> dict[str, Any]:
    """What a pod does not see of its cache: how the claim behind it is made."""
    is_claim = cache.type is CacheType.CLAIM
    return {"cache": {"storage_class_name": True, "access_mode": True, "size": True}} if is_claim else {}


def _check_groups(deployment: LLMDeployment, settings: BuildSettings) -> None:
    if not is_grouped(deployment):
        return
    nodes = deployment.spec.accelerator.nodes_per_replica
    if not settings.serves_groups:
        raise InvalidSpec(
            f"spec.accelerator.nodesPerReplica is {nodes}: that takes a LeaderWorkerSet, which this cluster does not know",
            Reason.LEADER_WORKER_SET_MISSING,
        )
    if deployment.spec.model.cache.access_mode is AccessMode.READ_WRITE_ONCE:
        raise InvalidSpec(
            f"spec.model.cache.accessMode ReadWriteOnce keeps replicas on one node, and one takes {nodes} "
            "(spec.accelerator.nodesPerReplica): use ReadWriteMany"
        )


def _build_deployment(deployment: LLMDeployment, pool: PoolSpec, revision: str, settings: BuildSettings) -> Manifest:
    template = build_template(deployment, pool, revision, settings)
    rollout = deployment.spec.rollout
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            **build_workload_metadata(deployment, pool, settings),
            "annotations": {names.LABEL_REVISION: revision, names.ANNOTATION_TEMPLATE: freeze(template)},
        },
        "spec": {
            "revisionHistoryLimit": 2,
            # Weights of some models take an hour to come; a rollout that takes longer than two has failed.
            "progressDeadlineSeconds": 7200,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": rollout.max_surge, "maxUnavailable": rollout.max_unavailable},
            },
            "selector": {"matchLabels": pool_labels(deployment, pool)},
            "template": template,
        },
    }


def _build_claim(deployment: LLMDeployment, settings: BuildSettings) -> list[Manifest]:
    spec = build_claim_spec(deployment.spec.model.cache)
    if spec is None:
        return []
    chosen = spec.get("storageClassName")
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                **build_metadata(deployment, names.child(deployment.key.name, "cache"), settings),
                **({"annotations": {names.ANNOTATION_STORAGE_CLASS: chosen}} if chosen is not None else {}),
            },
            "spec": spec,
        }
    ]


def _build_pod_monitor(deployment: LLMDeployment, settings: BuildSettings) -> Manifest:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": build_metadata(deployment, names.child(deployment.key.name, "engine"), settings),
        "spec": {
            "selector": {"matchLabels": names.engine_labels(deployment.key.name)},
            "podTargetLabels": [names.LABEL_DEPLOYMENT, names.LABEL_POOL, *settings.pass_labels],
            "podMetricsEndpoints": [{"port": "http", "path": "/metrics"}],
        },
    }


def _build_service(deployment: LLMDeployment, settings: BuildSettings) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(deployment, names.child(deployment.key.name, "engine"), settings),
        "spec": {
            "clusterIP": "None",
            "selector": names.engine_labels(deployment.key.name),
            "ports": [{"name": "http", "port": names.PORT_ENGINE, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _build_disruption_budget(deployment: LLMDeployment, settings: BuildSettings) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": build_metadata(deployment, names.child(deployment.key.name, "engine"), settings),
        "spec": {
            # One at a time, never none: a budget that forbids the last one would block the drain of a node for ever,
            # and the gateway holds requests meanwhile.
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": member_labels(deployment)},
        },
    }


def _build_network_policy(deployment: LLMDeployment, settings: BuildSettings) -> Manifest:
    lull = {
        "namespaceSelector": {"matchLabels": {names.LABEL_NAMESPACE: settings.lull_namespace}},
        "podSelector": {"matchLabels": {names.LABEL_APP: names.APP_LULL}},
    }
    # vLLM answers inference on paths that no key guards, so a pod that merely calls itself Prometheus is not enough:
    # somebody must have opened its namespace for monitoring.
    prometheus = {
        "namespaceSelector": {"matchLabels": {names.LABEL_MONITORING: "true"}},
        "podSelector": {"matchLabels": {names.LABEL_APP: "prometheus"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": build_metadata(deployment, names.child(deployment.key.name, "engine"), settings),
        "spec": {
            "podSelector": {"matchLabels": member_labels(deployment)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [lull, prometheus], "ports": [{"port": "http", "protocol": "TCP"}]},
                *(
                    # By number: not every network knows the port names of init containers.
                    [{"from": [lull], "ports": [{"port": names.PORT_ADAPTERS, "protocol": "TCP"}]}]
                    if deployment.spec.adapters is not None
                    else []
                ),
                *peers_rule(deployment),
            ],
        },
    }
