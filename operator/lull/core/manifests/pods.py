"""The engine pod: what a replica is, or each part of one that spans nodes."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.quantities import parse_duration
from lull.core.manifests.arguments import STARTUP_SECONDS, build_arguments, build_environment
from lull.core.manifests.capacity import CAPACITY_LABELS
from lull.core.manifests.fetching import CONTAINER_FETCH, build_fetchers, build_lull_container
from lull.core.manifests.lastwords import build_logging_annotation
from lull.core.manifests.placing import build_placing
from lull.core.manifests.security import build_container_security, build_pod_security
from lull.core.manifests.sidecar import build_sidecar
from lull.core.manifests.sources import Source, parse_source
from lull.core.manifests.vendors import find_resource
from lull.core.manifests.volumes import build_engine_mounts, build_volumes

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.placement import PodTemplateSpec, PoolSpec
    from lull.core.manifests.settings import BuildSettings

__all__ = [
    "CONTAINER_ENGINE",
    "CONTAINER_FETCH",
    "PRE_STOP_SECONDS",
    "build_template",
    "common_labels",
    "pool_labels",
]

CONTAINER_ENGINE: Final = "engine"

PRE_STOP_SECONDS: Final = 3
"""Between a pod's deletion and SIGTERM: gateways see the deletion and pick other endpoints."""
_TEARDOWN_SECONDS: Final = 15
"""What vLLM needs to end its processes after the last request."""


def pool_labels(deployment: LLMDeployment, pool: PoolSpec) -> dict[str, str]:
    """Labels that select the pods of one pool; a selector cannot be changed, so these never are."""
    return {**names.engine_labels(deployment.key.name), names.LABEL_POOL: pool.name}


def common_labels(deployment: LLMDeployment, settings: BuildSettings) -> dict[str, str]:
    """Labels of every object that belongs to an LLMDeployment, with those that it hands down."""
    return {
        **{key: deployment.labels[key] for key in settings.pass_labels if key in deployment.labels},
        names.LABEL_APP: names.APP_ENGINE,
        names.LABEL_INSTANCE: deployment.key.name,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        **names.engine_labels(deployment.key.name),
    }


def build_template(deployment: LLMDeployment, pool: PoolSpec, revision: str, settings: BuildSettings) -> Manifest:
    """The pod template of one pool."""
    spec = deployment.spec
    source = parse_source(spec.model)
    wanted = spec.pod_template
    drain = ceil(parse_duration(spec.rollout.drain))
    annotations = {**wanted.metadata.annotations, **build_logging_annotation(spec.engine)}
    init_containers = [
        *build_sidecar(deployment, build_lull_container(settings)),
        *build_fetchers(deployment, source, settings),
    ]
    return {
        "metadata": {
            "labels": {
                **wanted.metadata.labels,
                **common_labels(deployment, settings),
                **pool_labels(deployment, pool),
                names.LABEL_CAPACITY_TYPE: CAPACITY_LABELS[pool.capacity_type],
                names.LABEL_REVISION: revision,
            },
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": {
            "automountServiceAccountToken": False,
            # A Service named `vllm` would otherwise set VLLM_PORT in every pod of its namespace.
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": PRE_STOP_SECONDS + drain + _TEARDOWN_SECONDS,
            **_build_additions(wanted),
            "securityContext": build_pod_security(wanted.security_context),
            **build_placing(deployment, pool),
            **({"initContainers": init_containers} if init_containers else {}),
            "containers": [_build_engine(deployment, source)],
            "volumes": build_volumes(deployment, source),
        },
    }


def _build_additions(wanted: PodTemplateSpec) -> Manifest:
    named = {
        "priorityClassName": wanted.priority_class_name,
        "runtimeClassName": wanted.runtime_class_name,
        "schedulerName": wanted.scheduler_name,
        "serviceAccountName": wanted.service_account_name,
    }
    secrets = [{"name": name} for name in wanted.image_pull_secrets]
    return {
        **{field: name for field, name in named.items() if name is not None},
        **({"imagePullSecrets": secrets} if secrets else {}),
    }


def _build_engine(deployment: LLMDeployment, source: Source) -> Manifest:
    return {
        "name": CONTAINER_ENGINE,
        "image": deployment.engine_image,
        "args": build_arguments(deployment, source),
        "env": build_environment(deployment),
        "ports": [{"name": "http", "containerPort": names.PORT_ENGINE, "protocol": "TCP"}],
        "resources": _build_resources(deployment),
        # While it loads nothing listens, so looking each second costs nothing and finds the first healthy one soon.
        "startupProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": STARTUP_SECONDS,
        },
        # A busy engine's API process stalls for seconds; that must neither unready nor kill it.
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 2,
            "timeoutSeconds": 10,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 30,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "securityContext": build_container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": build_engine_mounts(deployment, source),
    }


def _build_resources(deployment: LLMDeployment) -> Manifest:
    spec = deployment.spec
    name, resources = find_resource(spec), spec.resources
    devices = {name: str(spec.accelerators_per_pod)} if name is not None else {}
    memory = {"memory": resources.memory} if resources.memory is not None else {}
    requests = {**({"cpu": resources.cpu} if resources.cpu is not None else {}), **memory, **devices}
    limits = {**memory, **devices}
    return {**({"requests": requests} if requests else {}), **({"limits": limits} if limits else {})}
