"""Server-sent events as engines send them: where events end, how many they are, whether one is an error or the last.

An engine's stream is passed on in whole events. Half an event is of no use to a client, and if the engine dies
inside one, an error event can still follow where a client will find it.

Chat and text completions end with `[DONE]`, responses and messages with an event of their own. A stream that ends
without either was broken off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from lull.wire import anthropic
from lull.wire.anthropic import PATH_MESSAGES
from lull.wire.openai import PATH_CHAT, PATH_RESPONSES
from lull.wire.sifting import FINISHED, Sifter
from lull.wire.usage import Usage, parse_usage

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EVENT_BYTES: Final = 1 << 20
"""An event longer than this is passed on in pieces, so that memory per stream has a bound."""

# The group is atomic: a CRLF is one line's end and never two.
_BOUNDARY: Final = re.compile(rb"(?>\r\n|\n|\r){2}")
_LINE: Final = re.compile(rb"\r\n|\n|\r")
_OVERLAP: Final = 3
"""A boundary may have begun in the chunk before, with all but its last byte."""
# Inside a JSON string these quotes are escaped, so this finds keys and skips what a model wrote.
_ERROR: Final = b'"error"'
_USAGE: Final = b'"usage"'
_DONE: Final = b"[DONE]"
_LAST: Final = {PATH_MESSAGES: b'"message_stop"', PATH_RESPONSES: b'"response"'}
_PLAIN: Final = {
    PATH_MESSAGES: b"event: content_block_delta\ndata: ",
    PATH_RESPONSES: b"event: response.output_text.delta\ndata: ",
}
_CHOICES: Final = b'"choices":[{'
_UNFINISHED: Final = b'"finish_reason":null'
_LAST_TYPES: Final = frozenset({"message_stop", "response.completed", "response.incomplete"})


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error that an engine reports inside a stream whose status was 200."""

    code: int
    message: str


class Passage:
    """What one chunk brought to completion."""

    __slots__ = ("begun", "done", "error", "events", "whole")

    def __init__(self, whole: bytes, begun: bool, error: StreamError | None, done: bool, events: int = 0) -> None:
        self.whole = whole
        """Whole events, as they came, up to and with the first error."""
        self.begun = begun
        """There is an event among them, not just comments or an error."""
        self.error = error
        self.done = done
        """The last event of the stream is among them."""
        self.events = events
        """How many they are: comments, errors and what was taken out are not counted."""


_NOTHING: Final = Passage(b"", begun=False, error=None, done=False)


class EventReader:
    """Reads one stream, however its bytes are cut into chunks.

    `strip_usage` is for a stream that the gateway asked for its usage where the client did not (`ask_for_usage`): it
    comes out as if nobody had asked.

    Nearly all events of a stream are alike but for a few words in the middle. How they begin and end is remembered,
    and one that does the same is looked at no further: it can be neither an error, nor the last, nor tell the usage.
    """

    def __init__(
        self,
        path: str = PATH_CHAT,
        *,
        strip_usage: bool = False,
        leaves_each: bool = False,
        fingerprint: bytes | None = None,
    ) -> None:
        """`leaves_each`, and `fingerprint`, which an earlier reader learned from this engine: see `Sifter`."""
        self.usage: Usage | None = None
        """What the engine says that the request took, as far as it has said so."""
        self.torn = False
        """What was passed on ends inside an event, since that one is too long to wait for."""
        self._last = _LAST.get(path, _DONE)
        self._given = fingerprint
        self._sifter = Sifter(fingerprint, leaves_each=leaves_each) if strip_usage else None
        self._rest = bytearray()
        self._plain = _PLAIN.get(path, b"")
        self._plain_end = b"\n\n"

    @property
    def fingerprint(self) -> bytes | None:
        """For the next reader of a stream from this engine."""
        return self._sifter.fingerprint if self._sifter is not None else self._given

    def read(self, chunk: bytes) -> Passage:
        if not self._rest and chunk.endswith(b"\n\n"):
            whole = chunk
            self.torn = False
        else:
            whole = self._complete(chunk)
            if not whole:
                return _NOTHING
        at = count = 0
        plain, plain_end = self._plain, self._plain_end
        if plain:
            ahead, back = len(plain), 2 - len(plain_end)
            while whole.startswith(plain, at):
                # A line feed inside a string is escaped, so this is the line's end.
                end = whole.find(b"\n", at + ahead)
                if end < 0 or not whole.startswith(plain_end, end + back):
                    break
                at = end + 2
                count += 1
        if at == len(whole):
            return Passage(whole, True, None, False, count)
        return self._inspect(whole, at, count)

    def _complete(self, chunk: bytes) -> bytes:
        """What has come in whole; the rest waits. Only the chunk is searched, however long the rest is."""
        overlap = bytes(self._rest[-_OVERLAP:])
        end = _last_boundary(overlap + chunk) - len(overlap)
        if end > 0:
            whole = bytes(self._rest) + chunk[:end]
            self._rest = bytearray(chunk[end:])
            self.torn = False
            return whole
        self._rest += chunk
        if len(self._rest) <= MAX_EVENT_BYTES:
            return b""
        whole = bytes(self._rest)
        self._rest.clear()
        self.torn = True
        return whole

    def _inspect(self, whole: bytes, at: int, count: int) -> Passage:
        """Look into the events from here on, where anything in them may be of interest."""
        tail = whole[at:]
        sifter = self._sifter
        # `in` would take bytes for a number first, and raise an exception inside before it searches.
        if not (
            tail.find(_ERROR) >= 0
            or tail.find(_USAGE) >= 0
            or tail.find(self._last) >= 0
            or (sifter is not None and (tail.find(FINISHED) >= 0 or sifter.is_holding))
        ):
            self._learn(tail)
            count += _count(tail)
            return Passage(whole, count > 0 or self.torn, None, False, count)
        if ahead := self._find_interest(tail):
            at += ahead
            count += _count(tail[:ahead])
            tail = tail[ahead:]
        passed = [whole[:at]]
        done = False
        for block, data in _blocks(tail):
            content = _parse(data) if data is not None and self._is_of_interest(data) else None
            error = None if content is None else _find_error(content)
            if content is not None and error is None:
                self._note_usage(content)
            done = done or data == self._last or (content is not None and content.get("type") in _LAST_TYPES)
            kept = block
            if sifter is not None:
                removed = sifter.removed
                kept = sifter.sift(block, content, is_end=done or error is not None)
                count -= sifter.removed - removed
                if sifter.is_holding:
                    # What comes next waits behind it, however plain it is.
                    self._plain = b""
            passed.append(kept)
            if error is not None:
                return Passage(b"".join(passed), count > 0, error, False, count)
            count += data is not None
        return Passage(b"".join(passed), count > 0, None, done, count)

    def _find_interest(self, tail: bytes) -> int:
        """Where the first event begins that may be of interest; 0 where that is not plain to see."""
        sifter = self._sifter
        if b"\r" in tail or (sifter is not None and sifter.is_holding):
            return 0
        marks = (_ERROR, _USAGE, self._last) if sifter is None else (_ERROR, _USAGE, self._last, FINISHED)
        first = min(at for mark in marks if (at := tail.find(mark)) >= 0)
        boundary = tail.rfind(b"\n\n", 0, first)
        return boundary + 2 if boundary >= 0 else 0

    def _learn(self, tail: bytes) -> None:
        """Take the last event as the pattern of those to come, if it is a chunk in which nothing ends."""
        start = tail.rfind(b"\n\n", 0, -2) + 2 if tail.count(b"\n\n") > 1 else 0
        choices = tail.find(_CHOICES, start)
        unfinished = tail.rfind(_UNFINISHED)
        if tail.startswith(b"data: {", start) and start < choices < unfinished and tail.endswith(b"}\n\n"):
            self._plain = tail[start : choices + len(_CHOICES)]
            self._plain_end = tail[unfinished:]

    def _is_of_interest(self, data: bytes) -> bool:
        return data.find(_ERROR) >= 0 or data.find(_USAGE) >= 0 or (data.find(self._last) >= 0 and data != _DONE)

    def _note_usage(self, content: dict[str, Any]) -> None:
        """Remember what is said last; what a message was given is said at its start, and may not be said again."""
        inner = content.get("response") or content.get("message")
        usage = parse_usage((inner if isinstance(inner, dict) else content).get("usage"))
        if usage is None:
            return
        if self.usage is not None and not usage.prompt_tokens:
            usage = Usage(self.usage.prompt_tokens, usage.completion_tokens, self.usage.cached_tokens)
        self.usage = usage


def _count(whole: bytes) -> int:
    """Events that have data."""
    count = whole.count(b"\n\ndata:") + whole.startswith(b"data:")
    # Where each is one line, that was all there is to count.
    if whole.count(b"\n") == 2 * count and whole.find(b"\r") < 0:
        return count
    return sum(1 for _ in events(whole))


def events(whole: bytes) -> Iterator[bytes]:
    """The data of each event, comments and other fields left out."""
    for _, data in _blocks(whole):
        if data is not None:
            yield data


def render_event(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def render_comment(text: str) -> bytes:
    """A line that keeps a connection open and that every client ignores."""
    return b": " + text.encode() + b"\n\n"


def parse_error(data: bytes) -> StreamError | None:
    """The error that a JSON text carries, in OpenAI's shape or Anthropic's, or None where it carries none."""
    content = _parse(data)
    return None if content is None else _find_error(content)


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return content if isinstance(content, dict) else None


def _find_error(content: dict[str, Any]) -> StreamError | None:
    kind = content.get("type")
    error = content.get("error")
    if not error and kind == "response.failed" and isinstance(content.get("response"), dict):
        error = content["response"].get("error") or "The response failed."
    if not error and kind == "error":
        error = content
    if not error:
        return None
    if not isinstance(error, dict):
        return StreamError(500, str(error))
    code = error.get("code")
    if not isinstance(code, int):
        code = anthropic.code_of(str(error.get("type"))) if kind == "error" else 500
    return StreamError(code, str(error.get("message", "")))


def _blocks(whole: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Cut at boundaries; with each piece the data of its event, if it has one."""
    start = 0
    for boundary in _BOUNDARY.finditer(whole):
        end = boundary.end()
        lines = [
            line[5:].removeprefix(b" ")
            for line in _LINE.split(whole[start : boundary.start()])
            if line.startswith(b"data:")
        ]
        yield whole[start:end], b"\n".join(lines) if lines else None
        start = end
    if start < len(whole):
        yield whole[start:], None


def _last_boundary(buffer: bytes) -> int:
    if b"\r" not in buffer:
        return buffer.rfind(b"\n\n") + 2 if b"\n\n" in buffer else 0
    end = 0
    for boundary in _BOUNDARY.finditer(buffer):
        end = boundary.end()
    return end
