"""What adapters add to an engine pod: a sidecar that fetches them when it is told to, and an engine that takes them.

Nothing here depends on the list of adapters, so that changing it restarts no pod.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.core.manifests.security import CREDENTIALS_PATH, build_secret

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest

CONTAINER_ADAPTERS: Final = "adapters"
ADAPTERS_PATH: Final = "/adapters"
"""Where adapters lie in the pod, each in a folder of its own: the sidecar writes there, the engine reads."""

_VOLUME: Final = "adapters"
_CREDENTIALS_VOLUME: Final = "adapters-credentials"


def build_adapter_arguments(deployment: LLMDeployment) -> list[str]:
    """Arguments of `vllm serve`."""
    adapters = deployment.spec.adapters
    if adapters is None:
        return []
    return [
        "--enable-lora",
        "--max-loras",
        str(adapters.max_loaded),
        "--max-lora-rank",
        str(adapters.max_rank),
        "--max-cpu-loras",
        str(adapters.cpu_slots or adapters.max_loaded),
    ]


def build_adapter_environment(deployment: LLMDeployment) -> list[Manifest]:
    """Environment of the engine: without it, adapters could be named at its start only."""
    if deployment.spec.adapters is None:
        return []
    return [{"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"}]


def build_adapter_mounts(deployment: LLMDeployment) -> list[Manifest]:
    """Volume mounts of the engine."""
    if deployment.spec.adapters is None:
        return []
    return [{"name": _VOLUME, "mountPath": ADAPTERS_PATH, "readOnly": True}]


def build_adapter_volumes(deployment: LLMDeployment) -> list[Manifest]:
    """Volumes of the pod."""
    if deployment.spec.adapters is None:
        return []
    secret = _secret_name(deployment)
    return [
        {"name": _VOLUME, "emptyDir": {}},
        *([{"name": _CREDENTIALS_VOLUME, "secret": build_secret(secret)}] if secret is not None else []),
    ]


def build_sidecar(deployment: LLMDeployment, common: Manifest) -> list[Manifest]:
    """The sidecar, to stand before every other init container, so that adapters come while the weights do.

    `common` is what all containers of Lull's image in an engine pod have alike: image, pull policy, security context,
    `env` and `volumeMounts`.
    """
    adapters = deployment.spec.adapters
    if adapters is None:
        return []
    has_secret = _secret_name(deployment) is not None
    return [
        {
            "name": CONTAINER_ADAPTERS,
            **common,
            # An init container that goes on running: it is there before the engine, and ends after it.
            "restartPolicy": "Always",
            "args": [
                "fetch-adapters",
                "--root",
                ADAPTERS_PATH,
                "--port",
                str(names.PORT_ADAPTERS),
                "--max-rank",
                str(adapters.max_rank),
                "--model",
                deployment.spec.model.source,
                *(["--credentials", CREDENTIALS_PATH] if has_secret else []),
            ],
            "ports": [{"name": "adapters", "containerPort": names.PORT_ADAPTERS, "protocol": "TCP"}],
            # No readiness probe: a pod whose sidecar restarts serves what its engine has loaded.
            "livenessProbe": {
                "httpGet": {"path": "/healthz", "port": "adapters"},
                "periodSeconds": 10,
                "timeoutSeconds": 10,
                "failureThreshold": 6,
            },
            "volumeMounts": [
                *common.get("volumeMounts", ()),
                {"name": _VOLUME, "mountPath": ADAPTERS_PATH},
                *(
                    [{"name": _CREDENTIALS_VOLUME, "mountPath": CREDENTIALS_PATH, "readOnly": True}]
                    if has_secret
                    else []
                ),
            ],
        }
    ]


def _secret_name(deployment: LLMDeployment) -> str | None:
    adapters = deployment.spec.adapters
    assert adapters is not None
    return adapters.secret_name or deployment.spec.model.secret_name
