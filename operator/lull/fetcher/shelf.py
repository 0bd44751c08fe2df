"""The adapters of one pod: fetched when somebody says so over HTTP, checked, kept until somebody says otherwise.

A sidecar of the engine. It decides nothing: the operator says which adapters it wants, and loads those that are ready
into the engine. What was ready stays ready when this process restarts, since the engine may read it at any time.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum, unique
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from lull.api.base import FETCHED_SOURCE_PATTERN
from lull.doors.serving import Answer, Call
from lull.fetcher.adapters import verify
from lull.fetcher.failures import DiskFull, Failed, NotWritable, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from lull.fetcher.adapters import Wanted

    Bring = Callable[[str, Path], Awaitable[None]]
    """Fetches a source into a folder; Failed says why it cannot be done."""

log = structlog.get_logger("lull.fetcher")

MAX_ADAPTERS: Final = 1100
"""Twice what an LLMDeployment may list, and a few: while the list changes, some are coming and some are going."""
PARALLEL: Final = 4
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 300.0

_RECORD: Final = ".lull/adapter.json"
_PREFIX: Final = "/adapters/"
_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,80}")
_NAME_LIMIT: Final = 128
_MESSAGE_LIMIT: Final = 900
_SOURCE_LIMIT: Final = 512


@unique
class State(StrEnum):
    FETCHING = "Fetching"
    READY = "Ready"
    FAILED = "Failed"
    """For good: only another source, or being asked for anew, can change that."""


@dataclass(slots=True)
class _Entry:
    id: str
    name: str
    source: str
    state: State = State.FETCHING
    message: str = ""
    size: int = 0


class Shelf:
    """Every adapter that was asked for, and how far it is."""

    def __init__(self, root: Path, bring: Bring, wanted: Wanted) -> None:
        self._root = root
        self._bring = bring
        self._wanted = wanted
        self._entries: dict[str, _Entry] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        """What was last begun for an id; the next thing for it waits for the end of that."""
        self._slots = asyncio.Semaphore(PARALLEL)
        self._group = asyncio.TaskGroup()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop. What an earlier process had begun goes on."""
        async with self._group:
            self._take_stock()
            await stop.wait()
            for identity, task in self._work.items():
                # What is being removed is removed to the end.
                if identity in self._entries:
                    task.cancel()

    def answer(self, call: Call) -> Answer:
        """`PUT` and `DELETE /adapters/<id>`, `GET /adapters`, `GET /healthz`."""
        if call.path == "/healthz":
            return Answer(200, b"ok", "text/plain")
        if call.path == "/adapters":
            return self._list() if call.method == "GET" else _refuse(405, "GET only")
        name = call.path.removeprefix(_PREFIX)
        if not call.path.startswith(_PREFIX) or not _ID.fullmatch(name):
            return _refuse(404, "no such path")
        match call.method:
            case "PUT":
                return self._put(name, call.body)
            case "DELETE":
                self._remove(name)
                return Answer(200, b"{}")
            case _:
                return _refuse(405, "PUT or DELETE only")

    def _list(self) -> Answer:
        listed = [
            {
                "id": entry.id,
                "name": entry.name,
                "source": entry.source,
                "state": entry.state.value,
                "message": entry.message,
                "path": str(self._root / entry.id),
                "bytes": entry.size,
            }
            for entry in self._entries.values()
        ]
        return Answer(200, json.dumps({"adapters": listed}).encode())

    def _put(self, identity: str, body: bytes) -> Answer:
        """Begin to fetch; once more for the same does nothing."""
        try:
            asked = json.loads(body)
            name, source = asked["name"], asked["source"]
        except (ValueError, KeyError, TypeError):
            return _refuse(400, "the body must be an object with name and source")
        if not (isinstance(name, str) and 0 < len(name) <= _NAME_LIMIT):
            return _refuse(400, "name must be a short string")
        if not (isinstance(source, str) and len(source) <= _SOURCE_LIMIT and re.match(FETCHED_SOURCE_PATTERN, source)):
            return _refuse(400, "source must be hf://, s3://, gs:// or oci://")
        if identity not in self._entries:
            if len(self._entries) >= MAX_ADAPTERS:
                return _refuse(429, f"there are {MAX_ADAPTERS} adapters here already")
            entry = self._entries[identity] = _Entry(identity, name, source)
            self._begin(identity, partial(self._supply, entry))
        return Answer(202, b"{}")

    def _remove(self, identity: str) -> None:
        if self._entries.pop(identity, None) is not None:
            if identity in self._work:
                self._work[identity].cancel()
            self._begin(identity, partial(asyncio.to_thread, _clear, self._root / identity))

    def _begin(self, identity: str, work: Callable[[], Awaitable[None]]) -> None:
        earlier = self._work.get(identity)

        async def run() -> None:
            if earlier is not None:
                await asyncio.wait((earlier,))
            await work()

        task = self._work[identity] = self._group.create_task(run())
        task.add_done_callback(partial(self._end, identity))

    def _end(self, identity: str, task: asyncio.Task[None]) -> None:
        if self._work[identity] is task:
            del self._work[identity]

    def _take_stock(self) -> None:
        """Find what an earlier process of this pod left."""
        for folder in sorted(path for path in self._root.iterdir() if path.is_dir() and _ID.fullmatch(path.name)):
            record = _read_record(folder)
            if record is None:
                _clear(folder)
                continue
            entry = self._entries[folder.name] = _Entry(folder.name, record["name"], record["source"])
            if record["isReady"]:
                entry.state, entry.size, entry.message = State.READY, record["bytes"], record["message"]
            else:
                self._begin(folder.name, partial(self._supply, entry))

    async def _supply(self, entry: _Entry) -> None:
        """Fetch and check one adapter, with ever longer pauses while there is hope."""
        pause = FIRST_PAUSE
        while entry.state is State.FETCHING:
            try:
                async with self._slots:
                    await self._try(entry)
            except Failed as failure:
                log.warning("adapter not fetched", name=entry.name, source=entry.source, error=str(failure))
                if not _may_pass(failure):
                    await asyncio.to_thread(_clear, self._root / entry.id)
                    entry.message, entry.state = str(failure)[:_MESSAGE_LIMIT], State.FAILED
                    return
                entry.message = f"{str(failure)[:_MESSAGE_LIMIT]} Lull keeps trying."
            except Exception:
                # The supervised loop: a bug that one adapter meets must not stop the others.
                log.exception("bug", name=entry.name, source=entry.source)
                entry.message, entry.state = (
                    "Lull failed over it: see the log of the container `adapters`.",
                    State.FAILED,
                )
            if entry.state is State.FETCHING:
                await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311  spreads retries only
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _try(self, entry: _Entry) -> None:
        folder = self._root / entry.id
        try:
            _write_record(folder, entry)
            await self._bring(entry.source, folder)
            verified = await asyncio.to_thread(verify, folder, self._wanted)
            entry.size, entry.message = verified.size, verified.note
            _write_record(folder, entry, is_ready=True)
        except OSError as error:
            raise DiskFull(f"Cannot write to {folder}: {error.strerror or error}.") from error
        entry.state = State.READY
        log.info("adapter ready", name=entry.name, source=entry.source, bytes=entry.size, note=entry.message)


def _may_pass(failure: Failed) -> bool:
    """Whether trying again may help: after trouble on the way or with room, not after what the files themselves say."""
    return isinstance(failure, DiskFull | NotWritable | Unreachable)


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        is_whole = {"name", "source", "isReady", "bytes", "message"} <= record.keys()
    except (OSError, ValueError, AttributeError):
        return None
    return record if is_whole else None


def _write_record(folder: Path, entry: _Entry, *, is_ready: bool = False) -> None:
    path = folder / _RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "name": entry.name,
        "source": entry.source,
        "isReady": is_ready,
        "bytes": entry.size,
        "message": entry.message if is_ready else "",
    }
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(record))
    draft.replace(path)


def _clear(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _refuse(status: int, why: str) -> Answer:
    return Answer(status, json.dumps({"error": why}).encode())
