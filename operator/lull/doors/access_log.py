"""One line of JSON for each request, and a standard output that never keeps anybody waiting.

Standard output is a pipe to a container runtime, and a pipe that nobody reads blocks whoever writes. So lines are put
into a bounded queue. Where they can be written at once, whoever fills the queue does it; otherwise one thread does,
and waits as long as it takes. When the queue is full, lines are dropped and counted.
"""

from __future__ import annotations

import json
import os
import select
import stat
import sys
import threading
from collections import deque
from contextlib import contextmanager
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final, Self

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINES: Final = 16_384
"""In the queue: what comes in some seconds at full load."""
BATCH: Final = 32
"""Lines that are worth writing at once: under full load the thread would have its turn too seldom."""
PAUSE_SECONDS: Final = 0.1
"""Lines are collected for so long before they are written."""
LAST_WORD_SECONDS: Final = 2.0
"""For the rest of the queue when the process ends."""

_NO_WAIT: Final = 8
"""RWF_NOWAIT of pwritev2(2), which `os` has no name for."""


@unique
class Logged(StrEnum):
    """Which requests get a line."""

    ALL = "all"
    ERRORS = "errors"
    """Those whose client left, or got an error instead of its answer, or in the midst of it."""
    OFF = "off"


class Outlet:
    """Writes lines to a file descriptor from a thread of its own; a text stream for `logging`, too."""

    def __init__(self, descriptor: int, *, max_lines: int = MAX_LINES) -> None:
        self._descriptor = descriptor
        self._max_lines = max_lines
        self._lines: deque[bytes] = deque()
        mode = os.fstat(descriptor).st_mode
        is_pipe = stat.S_ISFIFO(mode)
        self._flags = _NO_WAIT if is_pipe else 0
        self._is_quick = (is_pipe and sys.platform == "linux") or stat.S_ISREG(mode)
        """It can be written without waiting for whoever reads."""
        self._awake = threading.Event()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._run, name="outlet", daemon=True)
        self.lost = 0
        """Lines that were dropped."""

    @property
    def is_stuck(self) -> bool:
        """Nobody read the last lines, and whoever writes to the same place would wait for that, too."""
        return self._closing.is_set() and self._writer.is_alive()

    def put(self, line: bytes) -> None:
        """Have a line written, which ends with a line break; never waits."""
        if len(self._lines) >= self._max_lines:
            self.lost += 1
            return
        self._lines.append(line)
        if self._is_quick and len(self._lines) % BATCH == 0:
            self._drain_now()
        if not self._awake.is_set():
            self._awake.set()

    def write(self, text: str) -> None:
        """For a `logging.StreamHandler`, which writes whole lines."""
        self.put(text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Lines are written soon enough by themselves."""

    @contextmanager
    def running(self, *, last_word_seconds: float = LAST_WORD_SECONDS) -> Iterator[Self]:
        """Write while the block runs, and for a moment longer if something is left."""
        self._writer.start()
        try:
            yield self
        finally:
            self._closing.set()
            self._awake.set()
            self._writer.join(last_word_seconds)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._awake.wait()
            self._closing.wait(PAUSE_SECONDS)
            self._awake.clear()
            self._drain()
        self._drain()

    def _drain(self) -> None:
        while chunk := self._take():
            self._write(b"".join(chunk), len(chunk))

    def _drain_now(self) -> None:
        """Write what can be written without waiting."""
        while chunk := self._take():
            try:
                if len(chunk[0]) > select.PIPE_BUF:
                    raise BlockingIOError  # a pipe may take a part of it only
                if self._flags:
                    os.pwritev(self._descriptor, chunk, -1, self._flags)
                else:
                    os.writev(self._descriptor, chunk)
            except OSError:
                # Full, or broken: the thread waits, or finds out.
                self._lines.extendleft(reversed(chunk))
                return

    def _take(self) -> list[bytes]:
        """Lines that a pipe takes as a whole, whoever else writes into it: none is torn by another process's."""
        chunk: list[bytes] = []
        size = 0
        try:
            while not chunk or size + len(self._lines[0]) <= select.PIPE_BUF:
                line = self._lines.popleft()
                size += len(line)
                chunk.append(line)
        except IndexError:
            pass
        return chunk

    def _write(self, content: bytes, lines: int) -> None:
        rest = memoryview(content)
        try:
            while rest:
                # Not within the brackets: mypyc would write twice.
                written = os.write(self._descriptor, rest)
                rest = rest[written:]
        except BlockingIOError:
            select.select((), (self._descriptor,), ())
            self._write(bytes(rest), lines)
        except OSError:
            self.lost += lines


class AccessLog:
    """Lines in the shape of all others, made without going through them."""

    def __init__(self, outlet: Outlet, which: Logged) -> None:
        self._outlet = outlet
        self._which = which

    def wants(self, *, failed: bool) -> bool:
        """Whether a request gets a line."""
        return self._which is Logged.ALL or (failed and self._which is Logged.ERRORS)

    def record(self, fields: dict[str, object]) -> None:
        """Write the line of a request that has ended."""
        try:
            line = orjson.dumps(fields, option=_AS_A_LINE)
        except TypeError:
            # Half a character, which only a client that means harm puts into a path.
            line = json.dumps(fields, default=str).encode() + b"\n"
        self._outlet.put(line)


_AS_A_LINE: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
