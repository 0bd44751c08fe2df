"""The client's side of one exchange: what was sent to it so far, and what may still be said."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from lull.doors import clock
from lull.wire.sse import render_comment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.gateway.door import Client
    from lull.wire.openai import Refusal

EVENT_STREAM: Final = b"text/event-stream"
JSON: Final = ((b"content-type", b"application/json"),)
STREAM: Final = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BEAT: Final = render_comment("waiting")


class Reply:
    """An answer that is either whole, or a stream.

    A stream may be opened early, with comments only: its status is then 200 whatever follows, and a failure is told
    by an error event. While nothing but comments was sent, the request may still go to another engine.
    """

    __slots__ = (
        "_client",
        "_is_chunked",
        "_is_event_stream",
        "_is_open",
        "_is_torn",
        "begun_at",
        "closing",
        "ended",
        "extra_headers",
        "has_body",
        "path",
        "request_id",
        "status",
    )

    def __init__(self, client: Client, path: str, *, request_id: str, closing: bool, has_body: bool) -> None:
        self._client = client
        self.path = path
        self.request_id = request_id
        self.extra_headers: list[tuple[str, str]] = []
        self._is_open = False
        self._is_chunked = False
        self._is_event_stream = False
        self._is_torn = False
        self.status = 0
        """What the client was told, or what it would have been told had its stream not begun."""
        self.begun_at: float | None = None
        """When the first byte that is not a comment was sent."""
        self.ended = False
        self.closing = closing
        """Close the connection after this answer."""
        self.has_body = has_body
        """Answers to HEAD have none."""

    def beat(self) -> None:
        """Keep the line open; the client has asked for a stream and gets a comment."""
        if not self._is_open:
            self._is_event_stream = True
            self._open(200, STREAM)
        self.write(_BEAT)

    def send(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer as a whole."""
        self.status = status
        self.begun_at = clock.monotonic()
        if self._is_open:
            # The stream was opened while waiting, so this is its one event. Lines are joined: JSON stays JSON.
            self.write(b"data: " + b" ".join(body.splitlines()) + b"\n\n")
            self.end()
            return
        self.ended = True
        length = b"content-length: %d\r\n" % len(body) if status not in {204, 304} else b""
        head = self._head(status, headers, length)
        self._client.write_whole(head + body if self.has_body else head)
        self._client.answered(closing=self.closing)

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, is_event_stream: bool) -> None:
        """Open a stream, unless it is open already."""
        self.status = status
        self.begun_at = clock.monotonic()
        if not self._is_open:
            self._is_event_stream = is_event_stream
            self._open(status, headers)

    def write(self, chunk: bytes, *, torn: bool = False) -> None:
        """Send more of a stream; torn says that it ends inside an event."""
        self._is_torn = torn
        if self._is_chunked:
            self._client.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        else:
            self._client.write(chunk)

    def end(self, last: bytes = b"") -> None:
        """Say that this was all, after the last that there is to say."""
        self.ended = True
        if self._is_chunked:
            self._client.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n")
        elif last:
            self._client.write(last)
        self._client.answered(closing=self.closing)

    def refuse(self, refusal: Refusal) -> None:
        """Say no, in whatever way is still possible.

        A stream gets an error event and no [DONE]. Anything else that has begun is cut, so that it cannot pass for
        complete.
        """
        self.status = refusal.status
        if not self._is_open:
            headers = ((name.encode(), value.encode()) for name, value in refusal.headers.items())
            self.send(refusal.status, (*JSON, *headers), refusal.render(self.path, request_id=self.request_id))
        elif self._is_event_stream and not self._is_torn:
            self.end(refusal.render_event(self.path, request_id=self.request_id))
        else:
            self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        self.ended = True
        self._client.abort()

    def _open(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._is_open = True
        self._is_chunked = self._client.knows_chunks
        if not self._is_chunked:
            self.closing = True
        self._client.write(self._head(status, headers, b"transfer-encoding: chunked\r\n" if self._is_chunked else b""))

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]], length: bytes) -> bytes:
        lines = [
            _STATUS_LINES.get(status) or b"HTTP/1.1 %d -\r\n" % status,
            b"server: lull\r\ndate: ",
            self._client.door.date,
            b"\r\nx-request-id: ",
            self.request_id.encode(),
            b"\r\n",
            length,
        ]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if self.extra_headers:
            lines.append("".join([f"{header}: {text}\r\n" for header, text in self.extra_headers]).encode())
        lines.append(b"connection: close\r\n\r\n" if self.closing else b"\r\n")
        return b"".join(lines)
