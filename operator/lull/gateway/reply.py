"""The client's side of one exchange: what was sent to it so far, and what may still be said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from lull.doors import clock
from lull.wire.sse import render_comment, render_event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lull.wire.openai import Refusal

EVENT_STREAM: Final = "text/event-stream"
LAST_WORD_SECONDS: Final = 5.0
JSON: Final = {"Content-Type": "application/json"}


class ClientLeft(Exception):  # noqa: N818  not an error of ours
    """The connection to the client is gone."""


class Reply:
    """An answer that is either whole, or a stream.

    A stream may be opened early, with comments only: its status is then 200 whatever follows, and a failure is told
    by an error event. While nothing but comments was sent, the request may still go to another engine.
    """

    def __init__(self, request: web.BaseRequest, *, request_id: str) -> None:
        self._request = request
        self._headers = {"x-request-id": request_id}
        self._response: web.StreamResponse | None = None
        self._is_event_stream = False
        self._is_torn = False
        self.status = 0
        """What the client was told, or what it would have been told had its stream not begun."""
        self.begun_at: float | None = None
        """When the first byte that is not a comment was sent."""
        self.ended = False
        self.closing = False
        """Close the connection after this answer."""

    @property
    def response(self) -> web.StreamResponse:
        if self._response is None:
            raise RuntimeError("the request was not answered")
        return self._response

    async def beat(self) -> None:
        """Keep the line open; the client has asked for a stream and gets a comment."""
        if self._response is None:
            await self._open(200, {"Content-Type": EVENT_STREAM, "Cache-Control": "no-cache"})
            self._is_event_stream = True
        await self._write(render_comment("waiting"))

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer as a whole."""
        self.status = status
        self.begun_at = clock.monotonic()
        if self._response is not None:
            # The stream was opened while waiting, so this is its one event. Lines are joined: JSON stays JSON.
            await self._write(b"data: " + b" ".join(body.splitlines()) + b"\n\n")
            await self.end()
            return
        self._response = web.Response(status=status, headers={**headers, **self._headers}, body=body)
        if self.closing:
            self._response.force_close()
        self.ended = True

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Open a stream, unless it is open already."""
        self.status = status
        self.begun_at = clock.monotonic()
        if self._response is None:
            self._is_event_stream = headers.get("Content-Type", "").startswith(EVENT_STREAM)
            await self._open(status, headers)

    async def write(self, chunk: bytes, *, torn: bool = False) -> None:
        """Send more of a stream; torn says that it ends inside an event."""
        self._is_torn = torn
        await self._write(chunk)

    async def end(self) -> None:
        self.ended = True
        try:
            await self.response.write_eof()
        except ConnectionError as error:
            raise ClientLeft from error

    async def refuse(self, refusal: Refusal) -> None:
        """Say no, in whatever way is still possible.

        A stream gets an error event and no [DONE]. Anything else that has begun is cut, so that it cannot pass for
        complete; so is the line to a client that reads nothing any more.
        """
        self.status = refusal.status
        if self._response is None:
            await self.send(refusal.status, {**JSON, **refusal.headers}, refusal.body)
            return
        self.ended = True
        if self._is_event_stream and not self._is_torn:
            try:
                async with asyncio.timeout(LAST_WORD_SECONDS):
                    await self._write(render_event(refusal.payload))
                    await self.end()
                    return
            except TimeoutError:
                pass
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _open(self, status: int, headers: Mapping[str, str]) -> None:
        self._response = web.StreamResponse(status=status, headers={**headers, **self._headers})
        if self.closing:
            self._response.force_close()
        try:
            await self._response.prepare(self._request)
        except ConnectionError as error:
            raise ClientLeft from error

    async def _write(self, chunk: bytes) -> None:
        try:
            await self.response.write(chunk)
        except ConnectionError as error:
            raise ClientLeft from error
