"""From an LLMDeployment to the Kubernetes objects that serve it."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, LLMDeployment, Manifest
from lull.core.manifests.metadata import build_metadata, canonical, freeze
from lull.core.manifests.pods import BuildSettings, build_template, common_labels, pool_labels

if TYPE_CHECKING:
    from lull.api.placement import PoolSpec

__all__ = ["BuildSettings", "build", "find_revision"]


def build(deployment: LLMDeployment, settings: BuildSettings) -> tuple[Manifest, ...]:
    """Everything that should exist for an LLMDeployment, in the order in which to apply it.

    Deployments come without `spec.replicas`: that field is the autoscaler's, and `plan` sees to its birth.
    InvalidSpec where the spec cannot work as written.
    """
    name = deployment.key.name
    if len(name) > names.NAME_LIMIT or re.match(names.NAME_PATTERN, name) is None:
        raise InvalidSpec(names.NAME_RULE)
    return (
        _build_network_policy(deployment, settings),
        _build_service(deployment),
        _build_disruption_budget(deployment),
        *(_build_workload(deployment, pool, settings) for pool in deployment.spec.placement.pools),
    )


def find_revision(deployment: LLMDeployment, pool: PoolSpec) -> str:
    """Digest of what a pool's pods depend on in the spec, and of nothing else.

    Fields at their default are left out, so that one which a later version adds changes no digest. The image
    stays in: its default moves with the version, while objects keep the one that they were created with.
    """
    spec = deployment.spec
    parts = {
        part: getattr(spec, part).model_dump(mode="json", by_alias=True, exclude_defaults=True)
        for part in ("model", "engine", "parallelism", "accelerator", "resources")
    }
    inputs = {
        **parts,
        "image": deployment.engine_image,
        "pool": pool.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "drain": spec.rollout.drain,
        "names": [deployment.key.name, *deployment.served_names],
    }
    return sha256(canonical(inputs).encode()).hexdigest()[:10]


def _build_workload(deployment: LLMDeployment, pool: PoolSpec, settings: BuildSettings) -> Manifest:
    revision = find_revision(deployment, pool)
    template = build_template(deployment, pool, revision, settings)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            **build_metadata(deployment, names.child(deployment.key.name, pool.name)),
            "labels": {**common_labels(deployment), **pool_labels(deployment, pool)},
            "annotations": {names.LABEL_REVISION: revision, names.ANNOTATION_TEMPLATE: freeze(template)},
        },
        "spec": {
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 7200,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": pool_labels(deployment, pool)},
            "template": template,
        },
    }


def _build_service(deployment: LLMDeployment) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(deployment, names.child(deployment.key.name, "engine")),
        "spec": {
            "clusterIP": "None",
            "selector": names.engine_labels(deployment.key.name),
            "ports": [{"name": "http", "port": names.PORT_ENGINE, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _build_disruption_budget(deployment: LLMDeployment) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": build_metadata(deployment, names.child(deployment.key.name, "engine")),
        "spec": {
            # One at a time, never none: a budget that forbids the last one would block the drain of a node for ever,
            # and the gateway holds requests meanwhile.
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": names.engine_labels(deployment.key.name)},
        },
    }


def _build_network_policy(deployment: LLMDeployment, settings: BuildSettings) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": build_metadata(deployment, names.child(deployment.key.name, "engine")),
        "spec": {
            "podSelector": {"matchLabels": names.engine_labels(deployment.key.name)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [
                        {
                            "namespaceSelector": {"matchLabels": {names.LABEL_NAMESPACE: settings.lull_namespace}},
                            "podSelector": {"matchLabels": {names.LABEL_APP: names.APP_LULL}},
                        },
                        # vLLM answers inference on paths that no key guards, so a pod that merely calls itself
                        # Prometheus is not enough: somebody must have opened its namespace for monitoring.
                        {
                            "namespaceSelector": {"matchLabels": {names.LABEL_MONITORING: "true"}},
                            "podSelector": {"matchLabels": {names.LABEL_APP: "prometheus"}},
                        },
                    ],
                    "ports": [{"port": "http", "protocol": "TCP"}],
                }
            ],
        },
    }
