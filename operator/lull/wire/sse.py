"""Server-sent events as engines send them: where events end, whether one is an error, whether it was the last.

An engine's stream is passed on in whole events. Half an event is of no use to a client, and if the engine dies
inside one, an error event can still follow where a client will find it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EVENT_BYTES: Final = 1 << 20
"""An event longer than this is passed on in pieces, so that memory per stream has a bound."""

# The group is atomic: a CRLF is one line's end and never two.
_BOUNDARY: Final = re.compile(rb"(?>\r\n|\n|\r){2}")
_LINE: Final = re.compile(rb"\r\n|\n|\r")
_DONE: Final = b"[DONE]"


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error that an engine reports inside a stream whose status was 200."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Passage:
    """What one chunk brought to completion."""

    whole: bytes
    """Whole events, as they came, up to and with the first error."""
    begun: bool
    """There is an event among them, not just comments or an error."""
    error: StreamError | None
    done: bool
    """The last event of the stream is among them."""


class EventReader:
    """Reads one stream, however its bytes are cut into chunks."""

    def __init__(self) -> None:
        self._rest = b""
        self.torn = False
        """What was passed on ends inside an event, since that one is too long to wait for."""

    def read(self, chunk: bytes) -> Passage:
        buffer = self._rest + chunk if self._rest else chunk
        end = len(buffer) if buffer.endswith(b"\n\n") else _last_boundary(buffer)
        if end == 0 and len(buffer) > MAX_EVENT_BYTES:
            self._rest = b""
            self.torn = True
            return Passage(buffer, begun=True, error=None, done=False)
        whole, self._rest = buffer[:end], buffer[end:]
        if whole:
            self.torn = False
        # Inside a JSON string these quotes are escaped, so this finds keys and skips what a model wrote.
        if b'"error"' in whole or _DONE in whole:
            return _inspect(whole)
        return Passage(whole, begun=b"data" in whole and _has_event(whole), error=None, done=False)


def events(whole: bytes) -> Iterator[bytes]:
    """The data of each event, comments and other fields left out."""
    for data, _ in _events(whole):
        yield data


def render_event(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def render_comment(text: str) -> bytes:
    """A line that keeps a connection open and that every client ignores."""
    return b": " + text.encode() + b"\n\n"


def parse_error(data: bytes) -> StreamError | None:
    """The error that a JSON text carries in OpenAI's shape, or None where it carries none."""
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    error = content.get("error") if isinstance(content, dict) else None
    if not error:
        return None
    if not isinstance(error, dict):
        return StreamError(500, str(error))
    code = error.get("code")
    return StreamError(code if isinstance(code, int) else 500, str(error.get("message", "")))


def _inspect(whole: bytes) -> Passage:
    begun = False
    for data, end in _events(whole):
        if data == _DONE:
            return Passage(whole, begun=True, error=None, done=True)
        error = parse_error(data)
        if error is not None:
            return Passage(whole[:end], begun=begun, error=error, done=False)
        begun = True
    return Passage(whole, begun=begun, error=None, done=False)


def _has_event(whole: bytes) -> bool:
    return next(_events(whole), None) is not None


def _events(whole: bytes) -> Iterator[tuple[bytes, int]]:
    start = 0
    for boundary in _BOUNDARY.finditer(whole):
        lines = [
            line[5:].removeprefix(b" ")
            for line in _LINE.split(whole[start : boundary.start()])
            if line.startswith(b"data:")
        ]
        start = boundary.end()
        if lines:
            yield b"\n".join(lines), start


def _last_boundary(buffer: bytes) -> int:
    end = 0
    for boundary in _BOUNDARY.finditer(buffer):
        end = boundary.end()
    return end
