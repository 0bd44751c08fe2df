"""Which files a repository holds, and which of them an engine needs. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

from lull.fetcher.failures import Failed

if TYPE_CHECKING:
    from collections.abc import Iterable

    Json = dict[str, Any]

OWN_FOLDER: Final = ".lull"
"""Folder inside the target that holds the marker and unfinished files; no repository may write there."""
MAX_FILES: Final = 10_000

_SOURCE: Final = re.compile(
    r"hf://(?P<repository>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?"
)
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
class HubSource:
    """A repository on a Hugging Face compatible hub."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"hf://{self.repository}" + ("" if self.revision == "main" else f"@{self.revision}")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never means anything else later."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def listing_path(self) -> str:
        return f"/api/models/{self.repository}/revision/{quote(self.revision, safe='')}?blobs=true"

    def file_path(self, commit: str, path: str) -> str:
        return f"/{self.repository}/resolve/{commit}/{quote(path, safe='/')}"


@dataclass(frozen=True, slots=True)
class Checksum:
    """SHA-256 of the content, or for small files the id that Git gives the blob."""

    kind: Literal["sha256", "git"]
    hex: str


@dataclass(frozen=True, slots=True)
class RemoteFile:
    path: str
    size: int | None = None
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    commit: str
    files: tuple[RemoteFile, ...]


def parse_source(text: str) -> HubSource:
    """Read `hf://org/name[@revision]`; Failed for everything that is not fetched from a hub."""
    if text.startswith(("file://", "pvc://")):
        raise Failed(f"{text} needs no fetching: the engine reads it in place.")
    match = _SOURCE.fullmatch(text)
    if match is None:
        raise Failed(f"{text} is not a source that can be fetched: write hf://org/name or hf://org/name@revision.")
    return HubSource(match["repository"], match["revision"] or "main")


def parse_snapshot(answer: Json) -> Snapshot:
    """Read a hub's listing of one revision; Failed where it is malformed or names a path outside the target."""
    try:
        commit = answer["sha"]
        siblings = answer["siblings"]
        files = tuple(_parse_file(sibling) for sibling in siblings)
    except (KeyError, TypeError, AttributeError) as error:
        raise Failed(f"The hub's listing cannot be read: {type(error).__name__} {error}.") from error
    if not isinstance(commit, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", commit):
        raise Failed("The hub's listing names no commit.")
    if len(files) > MAX_FILES:
        raise Failed(f"The repository holds {len(files)} files, more than {MAX_FILES}.")
    return Snapshot(commit, files)


def choose(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Pick what an engine reads: one copy of the weights, and everything that is not weights or decoration."""
    wanted = [file for file in files if _is_useful(PurePosixPath(file.path))]
    paths = [PurePosixPath(file.path) for file in wanted]
    with_safetensors = {path.parent for path in paths if path.suffix == ".safetensors"}
    sharded_or_whole = {
        path.parent for path in paths if path.name.startswith("model") and path.suffix == ".safetensors"
    }

    def is_second_copy(path: PurePosixPath) -> bool:
        if path.suffix in {".bin", ".pt"}:
            return path.parent in with_safetensors
        return path.name.startswith("consolidated") and path.parent in sharded_or_whole

    chosen = tuple(file for file, path in zip(wanted, paths, strict=True) if not is_second_copy(path))
    if not any(PurePosixPath(file.path).suffix in _WEIGHTS for file in chosen):
        raise Failed("The repository holds no weights that vLLM loads (no .safetensors and no .bin file).")
    return chosen


def _is_useful(path: PurePosixPath) -> bool:
    return (
        path.suffix.lower() not in _SKIPPED_SUFFIXES
        and not path.name.startswith(".")
        and not _SKIPPED_FOLDERS.intersection(path.parts[:-1])
    )


def _parse_file(sibling: Json) -> RemoteFile:
    path = sibling["rfilename"]
    if not isinstance(path, str) or not _stays_inside(path):
        raise Failed(f"The hub's listing names a file outside the repository: {path!r}.")
    lfs = sibling.get("lfs") or {}
    size = lfs.get("size", sibling.get("size"))
    if size is not None and (not isinstance(size, int) or size < 0):
        raise Failed(f"The hub's listing gives {path} the size {size!r}.")
    # Hubs have named the LFS digest both ways.
    sha256 = lfs.get("sha256") or lfs.get("oid")
    checksum = parse_checksum(sha256 or sibling.get("blobId") or "")
    return RemoteFile(path, size, checksum)


def parse_checksum(text: str) -> Checksum | None:
    """Read a digest by its length, as a hub's listing and its ETag carry it; None for anything else."""
    digest = text.removeprefix("sha256:").strip('"').lower()
    if _SHA256.fullmatch(digest):
        return Checksum("sha256", digest)
    if _COMMIT.fullmatch(digest):
        return Checksum("git", digest)
    return None


def _stays_inside(path: str) -> bool:
    parts = path.split("/")
    return (
        len(path) <= 1024
        and path.isprintable()
        and "\\" not in path
        and not any(part in {"", ".", ".."} for part in parts)
        and parts[0] != OWN_FOLDER
    )
