"""What to make of a store's answers and of files that are there already. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lull.fetcher.snapshot import Checksum, RemoteFile

if TYPE_CHECKING:
    from hashlib import _Hash

    from lull.fetcher.snapshot import Json

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_MIN_PAUSE: Final = 0.25
_MAX_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Marker:
    """What a finished fetch left in the target, so that the next one downloads nothing."""

    source: str
    version: str
    files: tuple[RemoteFile, ...]


def parse_marker(answer: Json) -> Marker | None:
    """Read a marker; None for one that this version did not write."""
    try:
        return Marker(answer["source"], answer["version"], tuple(parse_file(file) for file in answer["files"]))
    except (KeyError, TypeError):
        return None


def render_marker(marker: Marker) -> Json:
    return {
        "source": marker.source,
        "version": marker.version,
        "files": [render_file(file) for file in marker.files],
    }


def parse_file(file: Json) -> RemoteFile:
    """Read what a marker or a record says of one file; KeyError or TypeError where it says nothing of the kind."""
    return RemoteFile(file["path"], file["size"], Checksum(*file["checksum"]) if file["checksum"] else None)


def render_file(file: RemoteFile) -> Json:
    return {
        "path": file.path,
        "size": file.size,
        "checksum": [file.checksum.kind, file.checksum.hex] if file.checksum else None,
    }


def hasher(file: RemoteFile) -> _Hash:
    """Build the digest that a file's checksum is compared with, before its first byte."""
    if file.checksum is not None and file.checksum.kind == "git":
        return hashlib.sha1(b"blob %d\0" % (file.size or 0), usedforsecurity=False)
    if file.checksum is not None and file.checksum.kind == "md5":
        return hashlib.md5(usedforsecurity=False)
    return hashlib.sha256()


def partial_name(file: RemoteFile) -> str:
    """Name of the unfinished file: another content under the same path never continues this one."""
    identity = f"{file.path}\n{file.size}\n{file.checksum.hex if file.checksum else ''}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32] + ".partial"


def range_header(offset: int) -> dict[str, str]:
    return {"Range": f"bytes={offset}-"} if offset else {}


def starts_at(status: int, content_range: str, *, asked: int) -> int | None:
    """Offset of the first byte that an answer brings: what was asked, or 0; None where the answer fits neither."""
    if status == 200:
        return 0
    if status != 206:
        return None
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    return asked if match is not None and int(match[1]) == asked else None


def pause(failures: int, retry_after: str | None = None) -> float:
    """Seconds before the next try: what the store asks for within reason, else doubling."""
    if retry_after is not None and _NUMBER.fullmatch(retry_after):
        return min(_MAX_PAUSE, max(_MIN_PAUSE, float(retry_after)))
    return min(_MAX_PAUSE, _MIN_PAUSE * 2.0 ** min(failures - 1, 10))


def is_transient(status: int) -> bool:
    return status in {408, 425, 429} or status >= 500


def parse_size(text: str) -> int | None:
    """Read a length as a header carries it; None for anything else."""
    return int(text) if _NUMBER.fullmatch(text) else None
