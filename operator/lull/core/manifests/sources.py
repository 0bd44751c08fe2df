"""Where the weights come from and where they lie in the pod: `spec.model.source` and `spec.model.cache`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum, unique
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from lull.api.engine import LoadFormat
from lull.api.model import CacheType

if TYPE_CHECKING:
    from lull.api.spec import LLMDeploymentSpec

MODELS_PATH: Final = "/models"
"""Where weights are mounted in the pod."""
DRAFT_PATH: Final = "/draft"
"""Where a small model is mounted that cannot lie beside the weights, as their volume is somebody's own."""

SAFETENSORS: Final = "safetensors"

_SLUG_LIMIT: Final = 64
_COPIES: Final = {LoadFormat.PT: "pytorch", LoadFormat.NP_CACHE: "pytorch", LoadFormat.MISTRAL: "mistral"}
"""Load formats that read another copy of the weights than the usual one."""


@unique
class SourceType(StrEnum):
    HUB = "hf"
    S3 = "s3"
    GS = "gs"
    OCI = "oci"
    CLAIM = "pvc"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Source:
    type: SourceType
    text: str
    claim: str
    """Name of the volume claim; empty for other types."""
    path: str
    """What the engine is told to load, as the engine sees it."""
    weights: str
    """Which copy of the weights the fetcher brings where a source has several."""

    @property
    def is_mounted(self) -> bool:
        """Whether weights lie in a volume; otherwise they are part of the engine's image."""
        return self.type is not SourceType.FILE


def parse_source(spec: LLMDeploymentSpec) -> Source:
    """Take the model's source apart; its shape is the schema's business, so what comes here is well formed."""
    model, weights = spec.model, _COPIES.get(spec.engine.load_format, SAFETENSORS)
    scheme, _, rest = model.source.partition("://")
    kind = SourceType(scheme)
    match kind:
        case SourceType.CLAIM:
            claim, _, path = rest.partition("/")
            return Source(kind, model.source, claim=claim, path=f"{MODELS_PATH}/{path}".rstrip("/"), weights=weights)
        case SourceType.FILE:
            return Source(kind, model.source, claim="", path=rest, weights=weights)
        case _:
            told = model.source if weights == SAFETENSORS else f"{model.source}#{weights}"
            folder = _find_folder(told, model.cache.type, own="model")
            return Source(kind, model.source, claim="", path=folder, weights=weights)


def find_draft_folder(spec: LLMDeploymentSpec) -> str | None:
    """Folder of the small model that guesses tokens, where there is one."""
    speculative = spec.engine.speculative
    if speculative is None or speculative.model is None:
        return None
    if spec.model.source.startswith(f"{SourceType.CLAIM.value}://"):
        return f"{DRAFT_PATH}/model"
    return _find_folder(speculative.model, spec.model.cache.type, own="draft")


def _find_folder(source: str, cache: CacheType, *, own: str) -> str:
    """Folder that the fetcher fills: `own` in a pod's own volume, one that tells the source in a shared one."""
    if cache is CacheType.EPHEMERAL:
        return f"{MODELS_PATH}/{own}"
    slug = re.sub(r"[^a-z0-9.]+", "-", source.partition("://")[2].lower())[:_SLUG_LIMIT].strip("-.")
    return f"{MODELS_PATH}/{slug}-{sha256(source.encode()).hexdigest()[:8]}"
