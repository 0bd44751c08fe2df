"""Volumes of the engine pod, and the claim that Lull creates for weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lull.api import names
from lull.api.model import AccessMode, CacheSpec, CacheType
from lull.core.manifests.arguments import HOME, writes_models
from lull.core.manifests.lastwords import build_logging_mounts, build_logging_volumes
from lull.core.manifests.security import build_secret
from lull.core.manifests.sidecar import build_adapter_mounts, build_adapter_volumes
from lull.core.manifests.sources import DRAFT_PATH, MODELS_PATH, SourceType, find_draft_folder

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.core.manifests.sources import Source


def build_volumes(deployment: LLMDeployment, source: Source) -> list[Manifest]:
    """Everything that containers of the pod mount."""
    spec = deployment.spec
    secret = spec.model.secret_name
    return [
        {"name": "tmp", "emptyDir": {}},
        {"name": "home", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": spec.resources.shared_memory}},
        *build_logging_volumes(spec.engine),
        *_build_models_volume(deployment, source),
        *([{"name": "draft", "emptyDir": {}}] if _has_draft_volume(deployment, source) else []),
        *([{"name": "credentials", "secret": build_secret(secret)}] if secret is not None else []),
        *build_adapter_volumes(deployment),
    ]


def build_engine_mounts(deployment: LLMDeployment, source: Source) -> list[Manifest]:
    """What the engine sees of them: read-only where it only reads."""
    spec = deployment.spec
    return [
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  a mount of its own
        {"name": "home", "mountPath": HOME},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  a mount of its own
        *(
            [
                {
                    "name": "models",
                    "mountPath": MODELS_PATH,
                    **({"readOnly": True} if not writes_models(spec.engine) else {}),
                }
            ]
            if _has_models_volume(deployment, source)
            else []
        ),
        *(
            [{"name": "draft", "mountPath": DRAFT_PATH, "readOnly": True}]
            if _has_draft_volume(deployment, source)
            else []
        ),
        *build_adapter_mounts(deployment),
        *build_logging_mounts(spec.engine),
    ]


def build_claim_spec(cache: CacheSpec) -> Manifest | None:
    """Spec of the PersistentVolumeClaim that Lull creates for a cache, where it does."""
    if cache.type is not CacheType.CLAIM or cache.claim_name is not None:
        return None
    return {
        "accessModes": [find_access_mode(cache).value],
        **({"storageClassName": cache.storage_class_name} if cache.storage_class_name is not None else {}),
        "resources": {"requests": {"storage": cache.size}},
    }


def find_access_mode(cache: CacheSpec) -> AccessMode:
    """How the claim that Lull creates may be mounted."""
    return cache.access_mode or AccessMode.READ_WRITE_MANY


def _build_models_volume(deployment: LLMDeployment, source: Source) -> list[Manifest]:
    cache = deployment.spec.model.cache
    if source.type is SourceType.CLAIM:
        is_read_only = not writes_models(deployment.spec.engine)
        claim = {"claimName": source.claim, **({"readOnly": True} if is_read_only else {})}
        return [{"name": "models", "persistentVolumeClaim": claim}]
    if not _has_models_volume(deployment, source):
        return []
    match cache.type:
        case CacheType.EPHEMERAL:
            return [{"name": "models", "emptyDir": {"sizeLimit": cache.size} if cache.size is not None else {}}]
        case CacheType.CLAIM:
            claim_name = cache.claim_name or names.child(deployment.key.name, "cache")
            return [{"name": "models", "persistentVolumeClaim": {"claimName": claim_name}}]
        case CacheType.HOST_PATH:
            # A folder that is not there yet is made, but for root alone: then the fetcher says what is wrong with it.
            return [{"name": "models", "hostPath": {"path": cache.path, "type": "DirectoryOrCreate"}}]


def _has_models_volume(deployment: LLMDeployment, source: Source) -> bool:
    """Whether weights, or those of a small model beside them, lie in a volume."""
    return source.is_mounted or find_draft_folder(deployment.spec) is not None


def _has_draft_volume(deployment: LLMDeployment, source: Source) -> bool:
    """Whether a small model needs a volume of its own, as that of the weights is somebody's own."""
    return source.type is SourceType.CLAIM and find_draft_folder(deployment.spec) is not None
