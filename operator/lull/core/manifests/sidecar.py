"""The container that fetches adapters for a running engine, when the operator tells it to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.core.manifests.arguments import HOME
from lull.core.manifests.fetching import CREDENTIALS_PATH, build_sources_environment
from lull.core.manifests.security import build_container_security

if TYPE_CHECKING:
    from lull.api.adapters import AdaptersSpec
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.core.manifests.settings import BuildSettings

CONTAINER_ADAPTERS: Final = "adapters"
ADAPTERS_PATH: Final = "/adapters"
"""Where the engine finds what the sidecar fetched."""


def build_sidecar(adapters: AdaptersSpec, deployment: LLMDeployment, settings: BuildSettings) -> Manifest:
    """A native sidecar: an init container that stays, started before weights are fetched."""
    secret = find_adapters_secret(deployment)
    return {
        "name": CONTAINER_ADAPTERS,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "restartPolicy": "Always",
        "args": [
            "fetch",
            "serve",
            "--root",
            ADAPTERS_PATH,
            "--port",
            str(names.PORT_ADAPTERS),
            "--max-rank",
            str(adapters.max_rank),
            *(["--credentials", CREDENTIALS_PATH] if secret is not None else []),
        ],
        "env": build_sources_environment(settings),
        "ports": [{"name": "adapters", "containerPort": names.PORT_ADAPTERS, "protocol": "TCP"}],
        "securityContext": build_container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  a mount of its own
            {"name": "home", "mountPath": HOME},
            {"name": "adapters", "mountPath": ADAPTERS_PATH},
            *(
                [{"name": "adapters-credentials", "mountPath": CREDENTIALS_PATH, "readOnly": True}]
                if secret is not None
                else []
            ),
        ],
    }


def find_adapters_secret(deployment: LLMDeployment) -> str | None:
    """Secret that opens the adapters' sources."""
    adapters, model = deployment.spec.adapters, deployment.spec.model
    return None if adapters is None else adapters.secret_name or model.secret_name
