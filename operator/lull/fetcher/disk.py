"""Files in the target: what is there, what fits, and what failing means."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from lull.fetcher import download
from lull.fetcher.failures import DiskFull, NotWritable
from lull.fetcher.snapshot import OWN_FOLDER, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from lull.fetcher.download import Marker

MARKER: Final = f"{OWN_FOLDER}/complete.json"
RECORD: Final = f"{OWN_FOLDER}/files.jsonl"
_CHUNK: Final = 1 << 20


@contextmanager
def disk(target: Path) -> Iterator[None]:
    """Turn failures of the file system inside the block into sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"No room is left in {target}: give the model's cache a larger volume.") from error
        raise NotWritable(
            f"Cannot write to {target} ({error.strerror or error}): the volume must be mounted for writing, "
            f"and its group or its owner must be that of the pod."
        ) from error


def reserve(target: Path, needed: int, what: str) -> None:
    """Fail before the first byte where the files cannot fit."""
    with disk(target):
        free = shutil.disk_usage(target).free
    if needed > free:
        raise DiskFull(
            f"{what} needs {render_bytes(needed)} more and {render_bytes(free)} are free in {target}: "
            "give the model's cache a larger volume."
        )


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def is_whole(target: Path, file: RemoteFile) -> bool:
    path = target / file.path
    return path.is_file() and (file.size is None or size(path) == file.size)


def digest(file: RemoteFile, path: Path) -> str:
    state = download.hasher(file)
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def settle(partial: Path, path: Path) -> None:
    """Give a finished file its name, once its bytes are where a power cut leaves them."""
    with partial.open("rb") as content:
        os.fsync(content.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(path)


def read_marker(target: Path) -> Marker | None:
    try:
        return download.parse_marker(json.loads((target / MARKER).read_bytes()))
    except (FileNotFoundError, ValueError):
        return None


def write_marker(target: Path, marker: Marker) -> None:
    path = target / MARKER
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(download.render_marker(marker), indent=1) + "\n")
    draft.replace(path)


def read_record(target: Path) -> dict[str, RemoteFile]:
    """What earlier runs have finished, by path: it spares reading it all again, and stands for what has no checksum."""
    try:
        lines = (target / RECORD).read_text().splitlines()
    except FileNotFoundError:
        return {}
    record = {}
    for line in lines:
        try:
            file = download.parse_file(json.loads(line))
        except (ValueError, KeyError, TypeError):
            # The last line of a run that was killed.
            continue
        record[file.path] = file
    return record


def write_record(target: Path, files: Iterable[RemoteFile]) -> None:
    path = target / RECORD
    draft = path.with_suffix(".draft")
    draft.write_text("".join(json.dumps(download.render_file(file)) + "\n" for file in files))
    draft.replace(path)


def append_record(target: Path, file: RemoteFile) -> None:
    with (target / RECORD).open("a") as record:
        record.write(json.dumps(download.render_file(file)) + "\n")


def render_bytes(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
