"""The init containers that bring weights into the pod before the engine starts, or look at those that are there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from lull.core.manifests.arguments import HOME
from lull.core.manifests.security import CREDENTIALS_PATH, build_container_security
from lull.core.manifests.sources import DRAFT_PATH, MODELS_PATH, SourceType, find_draft_folder

if TYPE_CHECKING:
    from lull.api.engine import EngineSpec
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.manifests.settings import BuildSettings
    from lull.core.manifests.sources import Source

CONTAINER_FETCH: Final = "fetch"
CONTAINER_FETCH_DRAFT: Final = "fetch-draft"

_STRETCHING_FLAGS: Final = frozenset({"--hf-overrides", "--rope-scaling"})
_STRETCHING_VARIABLE: Final = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


def build_fetchers(deployment: LLMDeployment, source: Source, settings: BuildSettings) -> list[Manifest]:
    """One container for the model, and one for the small model that guesses tokens, in the order in which they run."""
    speculative = deployment.spec.engine.speculative
    folder = find_draft_folder(deployment.spec)
    return [
        *(
            [_build_fetcher(CONTAINER_FETCH, source.text, source.path, deployment, settings)]
            if source.is_mounted
            else []
        ),
        *(
            [_build_fetcher(CONTAINER_FETCH_DRAFT, speculative.model, folder, deployment, settings)]
            if speculative is not None and speculative.model is not None and folder is not None
            else []
        ),
    ]


def build_lull_container(settings: BuildSettings) -> Manifest:
    """What all containers of Lull's image in an engine pod have alike."""
    return {
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [
            {"name": "HOME", "value": HOME},
            {"name": "HF_ENDPOINT", "value": settings.hub_endpoint},
            *([{"name": "AWS_ENDPOINT_URL", "value": settings.s3_endpoint}] if settings.s3_endpoint else []),
            *([{"name": "LULL_GS_ENDPOINT", "value": settings.gs_endpoint}] if settings.gs_endpoint else []),
            *([{"name": "LULL_OCI_PLAIN_HTTP", "value": settings.oci_plain_http}] if settings.oci_plain_http else []),
        ],
        "securityContext": build_container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  a mount of its own
            {"name": "home", "mountPath": HOME},
        ],
    }


def _build_fetcher(name: str, source: str, folder: str, deployment: LLMDeployment, settings: BuildSettings) -> Manifest:
    spec = deployment.spec
    secret = spec.model.secret_name
    is_there = source.startswith(f"{SourceType.CLAIM.value}://")
    is_apart = folder.startswith(DRAFT_PATH)
    common = build_lull_container(settings)
    return {
        "name": name,
        **common,
        "args": [
            "fetch",
            source,
            "--to",
            folder,
            *(["--credentials", CREDENTIALS_PATH] if secret is not None else []),
            # A draft has layers and heads of its own.
            *(["--check", _render_check(spec)] if name == CONTAINER_FETCH else []),
        ],
        "volumeMounts": [
            *common["volumeMounts"],
            {"name": "draft", "mountPath": DRAFT_PATH}
            if is_apart
            else {"name": "models", "mountPath": MODELS_PATH, **({"readOnly": True} if is_there else {})},
            *([{"name": "credentials", "mountPath": CREDENTIALS_PATH, "readOnly": True}] if secret is not None else []),
        ],
    }


def _render_check(spec: LLMDeploymentSpec) -> str:
    """What the model's own configuration is held against before its weights are fetched."""
    quantization = spec.engine.quantization
    return json.dumps(
        {
            "tensorParallel": spec.parallelism.tensor,
            "pipelineParallel": spec.parallelism.pipeline,
            "dataParallel": spec.parallelism.data,
            "expertParallel": spec.parallelism.expert,
            "maxModelLen": None if _stretches(spec.engine) else spec.engine.max_model_len,
            "quantization": None if quantization == "Auto" else quantization,
        },
        separators=(",", ":"),
    )


def _stretches(engine: EngineSpec) -> bool:
    """Whether the user changes the model's own limit on its context, of which config.json then says nothing."""
    flags = {argument.partition("=")[0].partition(".")[0].replace("_", "-") for argument in engine.extra_args}
    variables = {variable.name for variable in engine.env}
    return bool(flags & _STRETCHING_FLAGS) or _STRETCHING_VARIABLE in variables
