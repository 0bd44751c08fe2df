"""Where the weights come from: `spec.model.source`, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

MODELS_PATH = "/models"
"""Where weights are mounted in the pod."""
FETCHED_PATH = f"{MODELS_PATH}/model"
"""Folder that the fetcher fills."""


@unique
class SourceType(StrEnum):
    HUB = "hf"
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


def parse_source(text: str) -> Source:
    """Take a source apart; its shape is the schema's business, so what comes here is well formed."""
    scheme, _, rest = text.partition("://")
    match SourceType(scheme):
        case SourceType.HUB:
            return Source(SourceType.HUB, text, claim="", path=FETCHED_PATH)
        case SourceType.CLAIM:
            claim, _, path = rest.partition("/")
            return Source(SourceType.CLAIM, text, claim=claim, path=f"{MODELS_PATH}/{path}".rstrip("/"))
        case SourceType.FILE:
            return Source(SourceType.FILE, text, claim="", path=rest)
