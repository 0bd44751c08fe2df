"""One run at a time in a folder that several machines may share.

A lock is a file `lock.<n>`, and its holder is whoever made the one with the highest number. Making a file that must not
be there yet is atomic on every file system, over NFS too, so each number has one maker. The holder writes a sign of
life into its file now and then; whoever sees the same bytes there for too long, by its own clock, makes the next
number. Nothing is ever taken away from under somebody: a holder that was only asleep finds a higher number and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lull.doors import clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lull.fetcher.options import Options
    from lull.fetcher.snapshot import Json

_NAME: Final = re.compile(r"lock\.([0-9]{1,12})")
# Of one length, so that a sign of life needs no new block on a disk that has become full.
_LENGTH: Final = 512


class Lost(Exception):  # noqa: N818  not an error: another run goes on
    """Another run took this lock for abandoned."""


@dataclass(slots=True)
class Progress:
    """Bytes so far, and when the last one came."""

    total: int = 0
    present: int = 0
    received: int = 0
    moved_at: float = field(default_factory=clock.monotonic)

    def add(self, count: int) -> None:
        self.received += count
        self.moved_at = clock.monotonic()

    @property
    def here(self) -> int:
        return min(self.total, self.present + self.received)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The highest lock as it lies there."""

    number: int
    content: bytes

    @property
    def words(self) -> Json:
        try:
            words: Json = json.loads(self.content)
        except ValueError:
            return {}
        return words if isinstance(words, dict) else {}


class Lock:
    """A lock in one folder, taken or not."""

    def __init__(self, folder: Path, options: Options, progress: Progress, log: Callable[..., None]) -> None:
        self._folder = folder
        self._options = options
        self._progress = progress
        self._log = log
        self._number = 0
        self._descriptor: int | None = None
        self._beats = 0
        # A sign of life on its way must not be written to a descriptor that is another file's by then.
        self._writing = threading.Lock()

    async def acquire(self, is_done: Callable[[], bool]) -> bool:
        """Wait until the lock is ours (True), or until what it is wanted for has been done by another (False)."""
        seen, seen_at = self._look(), clock.monotonic()
        told_at = float("-inf")
        while True:
            if seen is None or seen.words.get("released") is True or self._is_stale(seen_at):
                if self._create(0 if seen is None else seen.number):
                    return True
            elif clock.monotonic() - told_at >= self._options.report_every:
                told_at = clock.monotonic()
                words = seen.words
                self._log("waiting", holder=words.get("holder"), present=words.get("present"), bytes=words.get("bytes"))
            await asyncio.sleep(min(1.0, self._options.beat_every, self._options.report_every))
            if is_done():
                return False
            now = self._look()
            if now != seen:
                seen, seen_at = now, clock.monotonic()

    async def beat(self) -> None:
        """Give signs of life for as long as the lock is held; Lost where another has taken it."""
        while True:
            # In a thread, so that a slow disk does not hold up the downloads.
            await asyncio.to_thread(self._beat)
            await asyncio.sleep(self._options.beat_every)

    def release(self) -> None:
        """Let the next one in at once."""
        with self._writing:
            if self._descriptor is None:
                return
            with contextlib.suppress(OSError):
                self._write(self._descriptor, released=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _beat(self) -> None:
        # A disk that is full or away for a moment: the next sign of life comes soon.
        with contextlib.suppress(OSError):
            seen = self._look()
            if seen is None or seen.number > self._number:
                raise Lost
            with self._writing:
                if self._descriptor is not None:
                    self._beats += 1
                    self._write(self._descriptor, released=False)

    def _is_stale(self, seen_at: float) -> bool:
        return clock.monotonic() - seen_at > self._options.stale_after

    def _look(self) -> _Seen | None:
        highest = max(self._numbers(), default=None)
        if highest is None:
            return None
        try:
            # Opening a file again is what makes NFS ask the server for its content.
            return _Seen(highest, (self._folder / f"lock.{highest}").read_bytes())
        except FileNotFoundError:
            return _Seen(highest, b"")

    def _numbers(self) -> list[int]:
        return [int(match[1]) for path in self._folder.iterdir() if (match := _NAME.fullmatch(path.name))]

    def _create(self, after: int) -> bool:
        path = self._folder / f"lock.{after + 1}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        self._number, self._descriptor = after + 1, descriptor
        self._write(descriptor, released=False)
        for number in self._numbers():
            if number <= after:
                (self._folder / f"lock.{number}").unlink(missing_ok=True)
        return True

    def _write(self, descriptor: int, *, released: bool) -> None:
        words = {
            # Names that differ between the machines that share a volume: a pod's name is its host name.
            "holder": f"{socket.gethostname()[:253]}/{os.getpid()}",
            "beat": self._beats,
            "present": self._progress.here,
            "bytes": self._progress.total,
            "released": released,
        }
        os.pwrite(descriptor, json.dumps(words).encode().ljust(_LENGTH), 0)
        os.fsync(descriptor)
