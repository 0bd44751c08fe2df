"""The engine pod: what a replica is."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.compute import Vendor
from lull.api.placement import CapacityType, PoolSpec
from lull.api.quantities import parse_duration
from lull.core.manifests.arguments import HOME, STARTUP_SECONDS, build_arguments, build_environment
from lull.core.manifests.capacity import build_affinity, build_tolerations
from lull.core.manifests.sources import FETCHED_PATH, MODELS_PATH, Source, SourceType, parse_source

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest

CONTAINER_ENGINE: Final = "engine"
CONTAINER_FETCH: Final = "fetch"

PRE_STOP_SECONDS: Final = 3
"""Between a pod's deletion and SIGTERM: gateways see the deletion and pick other endpoints."""
_TEARDOWN_SECONDS: Final = 15
"""What vLLM needs to end its processes after the last request."""
_USER: Final = 2000
"""The user that vLLM's image prepares; its group must be 0."""
_CAPACITY_LABELS: Final = {CapacityType.ANY: "any", CapacityType.SPOT: "spot", CapacityType.ON_DEMAND: "on-demand"}
_RESOURCE_NAMES: Final = {Vendor.NVIDIA: "nvidia.com/gpu", Vendor.CPU: None}


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What the operator adds to every LLMDeployment."""

    image: str
    """Image of Lull, which holds the fetcher."""
    image_pull_policy: str
    hub_endpoint: str
    lull_namespace: str


def pool_labels(deployment: LLMDeployment, pool: PoolSpec) -> dict[str, str]:
    """Labels that select the pods of one pool; a selector cannot be changed, so these never are."""
    return {**names.engine_labels(deployment.key.name), names.LABEL_POOL: pool.name}


def common_labels(deployment: LLMDeployment) -> dict[str, str]:
    """Labels of every object that belongs to an LLMDeployment."""
    return {
        names.LABEL_APP: names.APP_ENGINE,
        names.LABEL_INSTANCE: deployment.key.name,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        **names.engine_labels(deployment.key.name),
    }


def build_template(deployment: LLMDeployment, pool: PoolSpec, revision: str, settings: BuildSettings) -> Manifest:
    """The pod template of one pool."""
    spec = deployment.spec
    source = parse_source(spec.model.source)
    drain = ceil(parse_duration(spec.rollout.drain))
    return {
        "metadata": {
            "labels": {
                **common_labels(deployment),
                **pool_labels(deployment, pool),
                names.LABEL_CAPACITY_TYPE: _CAPACITY_LABELS[pool.capacity_type],
                names.LABEL_REVISION: revision,
            },
        },
        "spec": {
            "automountServiceAccountToken": False,
            # A Service named `vllm` would otherwise set VLLM_PORT in every pod of its namespace.
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": PRE_STOP_SECONDS + drain + _TEARDOWN_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": 0,
                "fsGroup": 0,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **({"nodeSelector": dict(pool.node_selector)} if pool.node_selector else {}),
            **build_affinity(pool.capacity_type, spec.accelerator.product),
            "tolerations": [
                *build_tolerations(pool.capacity_type, spec.accelerator.vendor),
                *(toleration.model_dump(mode="json", exclude_none=True) for toleration in pool.tolerations),
            ],
            **({"initContainers": [_build_fetcher(deployment, settings)]} if source.type is SourceType.HUB else {}),
            "containers": [_build_engine(deployment, source)],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "home", "emptyDir": {}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": spec.resources.shared_memory}},
                *_build_models_volume(source),
            ],
        },
    }


def _build_engine(deployment: LLMDeployment, source: Source) -> Manifest:
    spec = deployment.spec
    return {
        "name": CONTAINER_ENGINE,
        "image": deployment.engine_image,
        "args": build_arguments(deployment, source),
        "env": build_environment(spec.engine),
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
        "securityContext": _build_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  a mount of its own
            {"name": "home", "mountPath": HOME},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  a mount of its own
            *(
                [{"name": "models", "mountPath": MODELS_PATH, "readOnly": True}]
                if source.type is not SourceType.FILE
                else []
            ),
        ],
    }


def _build_fetcher(deployment: LLMDeployment, settings: BuildSettings) -> Manifest:
    model = deployment.spec.model
    return {
        "name": CONTAINER_FETCH,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": ["fetch", model.source, "--to", FETCHED_PATH],
        "env": [
            {"name": "HOME", "value": HOME},
            {"name": "HF_ENDPOINT", "value": settings.hub_endpoint},
            *(
                [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": model.secret_name, "key": "token"}}}]
                if model.secret_name is not None
                else []
            ),
        ],
        "securityContext": _build_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  a mount of its own
            {"name": "home", "mountPath": HOME},
            {"name": "models", "mountPath": MODELS_PATH},
        ],
    }


def _build_resources(deployment: LLMDeployment) -> Manifest:
    resources = deployment.spec.resources
    accelerator = deployment.spec.accelerator
    name = accelerator.resource_name or _RESOURCE_NAMES[accelerator.vendor]
    devices = {name: str(deployment.spec.parallelism.tensor)} if name is not None else {}
    memory = {"memory": resources.memory} if resources.memory is not None else {}
    requests = {**({"cpu": resources.cpu} if resources.cpu is not None else {}), **memory, **devices}
    limits = {**memory, **devices}
    return {**({"requests": requests} if requests else {}), **({"limits": limits} if limits else {})}


def _build_models_volume(source: Source) -> list[Manifest]:
    match source.type:
        case SourceType.HUB:
            return [{"name": "models", "emptyDir": {}}]
        case SourceType.CLAIM:
            return [{"name": "models", "persistentVolumeClaim": {"claimName": source.claim, "readOnly": True}}]
        case SourceType.FILE:
            return []


def _build_security() -> Manifest:
    """What the `restricted` pod security profile asks of a container, and a root file system that stays as it is."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
