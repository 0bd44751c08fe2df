"""Tar archives that hold a model's files: images whose layers they are, artifacts that pack folders.

An archive is read once, from front to back. What an engine might read of it goes into files named by numbers, beside an
index of what lay where; when all archives have been read, their indexes are laid over each other and the numbered
files get their names. No name out of an archive is used as a path before it has been looked at, no link is ever made.
"""

from __future__ import annotations

import json
import posixpath
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from lull.fetcher.failures import Failed
from lull.fetcher.snapshot import ADAPTER_CONFIG, CONFIG, MAX_FILES, is_useful, stays_inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from threading import Event

    from lull.fetcher.snapshot import Json

INDEX: Final = "index.json"
MAX_MEMBERS: Final = 500_000
_CHUNK: Final = 1 << 20
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in an archive, a link to one, or a sign that one of an earlier archive is gone."""

    path: str
    size: int = 0
    number: int | None = None
    """Under which number its content lies; None for a link or a sign."""
    target: str | None = None
    """What a link leads to."""
    folder: str = ""
    """Where the numbered file lies."""


def unpack(archive: Path, folder: Path, stopped: Event) -> None:
    """Read an archive into numbered files and an index; the index comes last, and stands for a whole one.

    It runs in a thread, which nobody can cancel: setting the event ends it at the next megabyte.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with archive.open("rb") as content, tarfile.open(fileobj=content, mode="r|*", bufsize=_CHUNK) as tar:
            entries = [_stage(tar, member, folder / str(number), stopped) for number, member in _members(tar)]
    except (tarfile.TarError, EOFError) as error:
        raise Failed(
            f"A layer of the model cannot be unpacked: it is no tar archive, or not gzip ({error})."
        ) from error
    kept = [_render_entry(entry) for entry in entries if entry is not None]
    draft = folder / "index.draft"
    draft.write_text(json.dumps(kept))
    draft.replace(folder / INDEX)


def read_index(folder: Path) -> list[Entry]:
    """Read what an archive held."""
    answer: list[Json] = json.loads((folder / INDEX).read_text())
    return [_parse_entry(entry, folder.name) for entry in answer]


def find_config(entries: Iterable[Entry]) -> Entry | None:
    """Find the config.json of the model's folder, as far as it can be told from these entries."""
    found = [entry for entry in entries if entry.number is not None and PurePosixPath(entry.path).name == CONFIG]
    return min(found, key=_depth, default=None)


def overlay(indexes: Iterable[Iterable[Entry]]) -> dict[str, Entry]:
    """Lay archives over each other, each later one hiding what it replaces or takes away; by path."""
    files: dict[str, Entry] = {}
    for index in indexes:
        entries = list(index)
        for entry in entries:
            folder, _, name = entry.path.rpartition("/")
            if name == _OPAQUE:
                _drop(files, folder)
            elif name.startswith(_WHITEOUT):
                _drop(files, posixpath.join(folder, name.removeprefix(_WHITEOUT)))
        files |= {entry.path: entry for entry in entries if not PurePosixPath(entry.path).name.startswith(_WHITEOUT)}
    return files


def find_model(files: Mapping[str, Entry], *, at_the_root: bool) -> dict[str, Entry]:
    """Find the model's folder in a tree; its files by their paths in there, links replaced by what they lead to."""
    root = PurePosixPath() if at_the_root else _find_root(files.values())
    model: dict[str, Entry] = {}
    for path, entry in files.items():
        if not PurePosixPath(path).is_relative_to(root):
            continue
        name = str(PurePosixPath(path).relative_to(root))
        # One link may lead to another, as where a hub's cache was copied.
        followed, steps = entry, 0
        while followed.target is not None:
            steps += 1
            if followed.target not in files or steps > 8:
                raise Failed(
                    f"The source holds a link that leads out of it or to no file: {path} to {followed.target}."
                )
            followed = files[followed.target]
        if not stays_inside(name):
            raise Failed(f"The source holds a file whose path cannot be used: {name!r}.")
        model[name] = followed
    if len(model) > MAX_FILES:
        raise Failed(f"The source holds {len(model)} files, more than {MAX_FILES}.")
    return model


def _find_root(entries: Iterable[Entry]) -> PurePosixPath:
    named: dict[str, list[Entry]] = {name: [] for name in (CONFIG, ADAPTER_CONFIG)}
    for entry in entries:
        named.get(PurePosixPath(entry.path).name, []).append(entry)
    # A model may bring adapters along, so its own configuration counts first.
    for configs in named.values():
        if configs:
            return PurePosixPath(min(configs, key=_depth).path).parent
    raise Failed(f"The source holds no {CONFIG}: a model's image holds its files under /models.")


def _members(tar: tarfile.TarFile) -> Iterator[tuple[int, tarfile.TarInfo]]:
    for number, member in enumerate(tar):
        if number >= MAX_MEMBERS:
            raise Failed(f"A layer of the model holds more than {MAX_MEMBERS} files.")
        yield number, member
        # It remembers every member for random access, which a stream has none of.
        tar.members.clear()  # type: ignore[attr-defined]  # typeshed leaves it out


def _stage(tar: tarfile.TarFile, member: tarfile.TarInfo, numbered: Path, stopped: Event) -> Entry | None:
    """Keep a member's content under its number, where an engine might read it."""
    path = _normal(member.name)
    name = PurePosixPath(path).name
    if name.startswith(_WHITEOUT):
        return Entry(path)
    if not is_useful(path) or not (member.isreg() or member.issym() or member.islnk()):
        return None
    if member.issym():
        # An absolute link means the root of the image.
        target = (
            member.linkname.lstrip("/")
            if member.linkname.startswith("/")
            else (posixpath.join(posixpath.dirname(path), member.linkname))
        )
        return Entry(path, target=posixpath.normpath(target))
    if member.islnk():
        return Entry(path, target=_normal(member.linkname))
    source = tar.extractfile(member)
    assert source is not None
    with source, numbered.open("xb") as content:
        while chunk := source.read(_CHUNK):
            content.write(chunk)
            if stopped.is_set():
                raise Failed("Unpacking was stopped.")
    return Entry(path, member.size, int(numbered.name))


def _normal(name: str) -> str:
    """A member's path from the archive's root; Failed where it leaves it."""
    path = posixpath.normpath(name.lstrip("/"))
    if path.split("/")[0] == ".." or "\0" in path:
        raise Failed(f"The source holds a path that leads out of it: {name!r}.")
    return path


def _depth(entry: Entry) -> tuple[bool, int, str]:
    """Order folders by how likely they are the model's: under /models, then the shallowest."""
    parts = PurePosixPath(entry.path).parts
    return parts[0] != "models", len(parts), entry.path


def _drop(files: dict[str, Entry], path: str) -> None:
    for name in [name for name in files if not path or name == path or name.startswith(f"{path}/")]:
        del files[name]


def _render_entry(entry: Entry) -> Json:
    return {"path": entry.path, "size": entry.size, "number": entry.number, "target": entry.target}


def _parse_entry(answer: Json, folder: str) -> Entry:
    return Entry(answer["path"], answer["size"], answer["number"], answer["target"], folder)
