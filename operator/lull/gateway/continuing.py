"""Streams that go on at another engine when theirs dies, for LLMDeployments whose spec asks for it.

Such a stream is asked for the usage so far in each of its events, since an engine that is ahead of its reader puts
several tokens into one: how many there were is what the other engine has less to write.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from lull.core.continuation import Story, may_continue
from lull.wire.sse import events, render_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lull.gateway.exchange import Exchange

MAX_CONTINUED: Final = 3
"""Times that one stream goes on elsewhere."""

_UNREAD_BYTES: Final = 16 * 1024
"""Events are read in bulk: most streams end well, and nobody needs their text."""
_DONE: Final = b"[DONE]"
# Inside a JSON string these quotes are escaped.
_USAGE: Final = re.compile(rb',"usage":\{(?:[^{}]|\{[^{}]*\})*\}')
_NO_CHOICES: Final = b'"choices":[]'
"""The usage of the whole stream comes in an event of its own."""


class Listener:
    """The tap of a stream that may be continued: keeps what was said, and makes one stream of several."""

    __slots__ = ("_hides_each", "_story", "_times", "_unread", "body", "is_continued")

    def __init__(self, path: str, body: bytes, *, hides_each: bool = True) -> None:
        """`hides_each`: the client did not ask for the usage in each event."""
        self.body = body
        """What the first engine was asked."""
        self._hides_each = hides_each
        self._story = Story(path, hides_each=hides_each)
        self._unread = bytearray()
        self.is_continued = False
        self._times = 0

    def __call__(self, run: bytes) -> bytes:
        """Whole events from an engine, as the client is to get them."""
        if self.is_continued:
            return b"".join(map(self._retell, events(run)))
        self._unread += run
        if len(self._unread) > _UNREAD_BYTES:
            self._read()
        return _hide_each(run) if self._hides_each else run

    def continue_(self) -> bytes | None:
        """What another engine is to be asked; None where the stream must not go on."""
        if self._times == MAX_CONTINUED:
            return None
        self._times += 1
        self._read()
        self.is_continued = True
        body = self._story.continue_(orjson.loads(self.body))
        return None if body is None else orjson.dumps(body)

    def _read(self) -> None:
        for data in _split(bytes(self._unread)):
            if data != _DONE:
                self._story.read(_parse(data))
        self._unread.clear()

    def _retell(self, data: bytes) -> bytes:
        if data == _DONE:
            return b"data: [DONE]\n\n"
        event = self._story.retell(_parse(data))
        return b"" if event is None else render_event(event)


def _hide_each(run: bytes) -> bytes:
    return b"\n\n".join(
        [event if event.find(_NO_CHOICES) >= 0 else _USAGE.sub(b"", event, count=1) for event in run.split(b"\n\n")]
    )


def _split(run: bytes) -> Iterator[bytes]:
    """The data of each event; as engines write them, that is quick to find."""
    if b"\r" in run:
        yield from events(run)
        return
    for block in run.split(b"\n\n"):
        if block.startswith(b"data: ") and b"\n" not in block:
            yield block[6:]
        elif block:
            yield from events(block + b"\n\n")


def _parse(data: bytes) -> Any:  # noqa: ANN401  any JSON value
    """The value of an event's data; what is no JSON stands for nothing that could be continued."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def listen(exchange: Exchange) -> None:
    """Keep what a stream says from its beginning, where it may have to be continued."""
    deployment, call = exchange.deployment, exchange.call
    exchange.tap = None
    if deployment is not None and call.stream and may_continue(deployment, exchange.path, call.content):
        exchange.tap = Listener(exchange.path, exchange.body, hides_each=not call.wants_each_usage)


def continue_stream(exchange: Exchange) -> bytes | None:
    """What to ask another engine for, so that the client's stream goes on; None where it must end here."""
    return exchange.tap.continue_() if isinstance(exchange.tap, Listener) else None


def is_continued(exchange: Exchange) -> bool:
    """Whether more than one engine had a part in the answer."""
    return isinstance(exchange.tap, Listener) and exchange.tap.is_continued
