"""What to make of a hub's answers and of files that are there already. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lull.fetcher.failures import Failed, Forbidden, NotFound
from lull.fetcher.snapshot import Checksum, HubSource, RemoteFile, parse_checksum

if TYPE_CHECKING:
    from collections.abc import Mapping
    from hashlib import _Hash

    from lull.fetcher.snapshot import Json

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_MIN_PAUSE: Final = 0.25
_MAX_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Marker:
    """What a finished fetch left in the target, so that the next one downloads nothing."""

    repository: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]

    def is_of(self, source: HubSource) -> bool:
        return (self.repository, self.revision) == (source.repository, source.revision)


def parse_marker(answer: Json) -> Marker | None:
    """Read a marker; None for one that this version did not write."""
    try:
        return Marker(
            answer["repository"],
            answer["revision"],
            answer["commit"],
            tuple(
                RemoteFile(file["path"], file["size"], Checksum(*file["checksum"]) if file["checksum"] else None)
                for file in answer["files"]
            ),
        )
    except (KeyError, TypeError):
        return None


def render_marker(marker: Marker) -> Json:
    return {
        "repository": marker.repository,
        "revision": marker.revision,
        "commit": marker.commit,
        "files": [
            {
                "path": file.path,
                "size": file.size,
                "checksum": [file.checksum.kind, file.checksum.hex] if file.checksum else None,
            }
            for file in marker.files
        ],
    }


def hasher(file: RemoteFile) -> _Hash:
    """Build the digest that a file's checksum is compared with, before its first byte."""
    if file.checksum is not None and file.checksum.kind == "git":
        return hashlib.sha1(b"blob %d\0" % (file.size or 0), usedforsecurity=False)
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
    """Seconds before the next try: what the hub asks for within reason, else doubling."""
    if retry_after is not None and _NUMBER.fullmatch(retry_after):
        return min(_MAX_PAUSE, max(_MIN_PAUSE, float(retry_after)))
    return min(_MAX_PAUSE, _MIN_PAUSE * 2.0 ** min(failures - 1, 10))


def is_transient(status: int) -> bool:
    return status in {408, 425, 429} or status >= 500


def refusal(status: int, *, source: HubSource, endpoint: str, has_token: bool, path: str | None = None) -> Failed:
    """Say what a final answer of the hub means; the LLMDeployment's condition adds what to do about it."""
    what = str(source) if path is None else f"{path} of {source}"
    if status in {404, 410}:
        return NotFound(
            f"{what} was not found on {endpoint}."
            + ("" if has_token else " A private model also needs a token, named by spec.model.secretName.")
        )
    if status in {401, 403} and has_token:
        return Forbidden(
            f"{endpoint} refuses {what} to this token ({status}): it is not valid, or its account has no access."
        )
    if status in {401, 403}:
        return Forbidden(
            f"{endpoint} asks for a token for {what} ({status}): the model is gated or private, or its name is wrong."
        )
    return Failed(f"{endpoint} answers {what} with status {status}.")


def describe(file: RemoteFile, headers: Mapping[str, str]) -> RemoteFile:
    """Fill in what the listing left out from the answer to a HEAD request.

    A hub that redirects to storage says size and digest of the content in `X-Linked-*`; its own ETag and length are
    those of the redirect.
    """
    size = headers.get("x-linked-size") or headers.get("content-length") or ""
    checksum = parse_checksum(headers.get("x-linked-etag") or headers.get("etag") or "")
    return RemoteFile(
        file.path,
        int(size) if file.size is None and _NUMBER.fullmatch(size) else file.size,
        file.checksum or checksum,
    )
