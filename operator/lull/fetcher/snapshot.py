"""Which files a source holds, and which of them an engine needs. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum, unique
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

from lull.fetcher.failures import Failed

if TYPE_CHECKING:
    from collections.abc import Iterable

    Json = dict[str, Any]

OWN_FOLDER: Final = ".lull"
"""Folder inside the target that holds the marker, the lock and unfinished files; no source may write there."""
MAX_FILES: Final = 10_000
CONFIG: Final = "config.json"
ADAPTER_CONFIG: Final = "adapter_config.json"

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

_WEIGHTS: Final = frozenset({".safetensors", ".bin", ".pt"})
_SKIPPED_SUFFIXES: Final = frozenset(
    {".pth", ".onnx", ".onnx_data", ".gguf", ".h5", ".msgpack", ".ot", ".tflite"}
    | {".md", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".mp4"}
)
# Copies of the weights for other runtimes.
_SKIPPED_FOLDERS: Final = frozenset({"original", "onnx", "openvino", "coreml"})


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a store says about a file's content.

    SHA-256 of the content, MD5 of it, the id that Git gives the blob, or a tag that changes with the content and cannot
    be computed from it.
    """

    kind: Literal["sha256", "git", "md5", "etag"]
    hex: str

    @property
    def is_computable(self) -> bool:
        return self.kind != "etag"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file under the path that it gets in the target."""

    path: str
    size: int | None = None
    checksum: Checksum | None = None
    address: str = field(default="", compare=False)
    """Where the store keeps it: a key, a digest."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a source holds at one moment."""

    version: str
    files: tuple[RemoteFile, ...]
    archives: tuple[RemoteFile, ...] = ()
    """Files that hold files, each laid over the ones before it; their paths are those of their own, not the model's."""


@unique
class Weights(StrEnum):
    """Which copy of the weights is wanted where a source has several; where it has one, that will do."""

    SAFETENSORS = "safetensors"
    PYTORCH = "pytorch"
    MISTRAL = "mistral"
    """Mistral's own consolidated files."""


def choose(files: Iterable[RemoteFile], weights: Weights = Weights.SAFETENSORS) -> tuple[RemoteFile, ...]:
    """Pick what an engine reads: one copy of the weights, and everything that is not weights or decoration."""
    wanted = [file for file in files if is_useful(file.path)]
    paths = [PurePosixPath(file.path) for file in wanted]
    with_safetensors = {path.parent for path in paths if path.suffix == ".safetensors"}
    with_pickles = {path.parent for path in paths if path.name.startswith("pytorch_model") or path.suffix == ".pt"}
    with_consolidated = {path.parent for path in paths if _is_consolidated(path)}
    sharded_or_whole = {
        path.parent for path in paths if path.name.startswith("model") and path.suffix == ".safetensors"
    }

    def is_second_copy(path: PurePosixPath) -> bool:
        is_pickle = path.suffix in {".bin", ".pt"}
        if weights is Weights.PYTORCH and path.parent in with_pickles:
            return path.suffix == ".safetensors"
        if weights is Weights.MISTRAL and path.parent in with_consolidated:
            return is_pickle or (path.suffix == ".safetensors" and not _is_consolidated(path))
        return (
            path.parent in with_safetensors if is_pickle else _is_consolidated(path) and path.parent in sharded_or_whole
        )

    chosen = tuple(file for file, path in zip(wanted, paths, strict=True) if not is_second_copy(path))
    if not any(PurePosixPath(file.path).suffix in _WEIGHTS for file in chosen):
        raise Failed("The source holds no weights that vLLM loads (no .safetensors and no .bin file).")
    return chosen


def _is_consolidated(path: PurePosixPath) -> bool:
    return path.name.startswith("consolidated") and path.suffix == ".safetensors"


def is_useful(name: str) -> bool:
    """Whether an engine may read a file of this name: no decoration, no weights for another runtime."""
    path = PurePosixPath(name)
    return (
        path.suffix.lower() not in _SKIPPED_SUFFIXES
        and not path.name.startswith(".")
        and not _SKIPPED_FOLDERS.intersection(path.parts[:-1])
    )


def parse_checksum(text: str) -> Checksum | None:
    """Read a digest by its length, as a hub's listing and its ETag carry it; None for anything else."""
    digest = text.removeprefix("sha256:").strip('"').lower()
    if _SHA256.fullmatch(digest):
        return Checksum("sha256", digest)
    if _COMMIT.fullmatch(digest):
        return Checksum("git", digest)
    return None


def stays_inside(path: str) -> bool:
    """Whether a path that a stranger names stays inside the target, and out of Lull's own folder there."""
    parts = path.split("/")
    return (
        len(path) <= 1024
        and path.isprintable()
        and "\\" not in path
        and not any(part in {"", ".", ".."} for part in parts)
        and parts[0] != OWN_FOLDER
    )
