"""Pass a request to an engine and its answer to the client, bytes untouched.

Until the first byte of the answer, whatever goes wrong is a `TryAgain`. From then on it is told to the client.
vLLM reports overload and its own death inside a 200 stream, so a stream's first event is read before anything is
sent; and it answers 500 to new requests while it shuts down, so that answer is read too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.payload import Payload

from lull.core import routing
from lull.doors import clock
from lull.gateway.exchange import Failure, Stage, TryAgain
from lull.gateway.reply import EVENT_STREAM
from lull.wire.openai import Refusal
from lull.wire.sse import EventReader, parse_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter

    from lull.gateway.attempts import Attempt
    from lull.gateway.exchange import Exchange, Gateway
    from lull.wire.sse import Passage, StreamError

WHOLE_BYTES: Final = 1 << 20
"""An answer of known length up to this is read before any of it is sent: an engine's death then costs a retry only."""
LINGER_SECONDS: Final = 0.25
"""After the last event of a stream, so long for the engine to end it, for the connection to be used again."""

_WRITE_BYTES: Final = 1 << 16
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FORWARDED: Final = _HOP_BY_HOP | {
    "accept-encoding",
    "authorization",
    "content-length",
    "cookie",
    "expect",
    "host",
    "x-request-id",
}
_NOT_RETURNED: Final = _HOP_BY_HOP | {"content-length", "date", "server", "x-request-id"}

_SHUTTING_DOWN: Final = "after shutdown"
_UNKNOWN_MODEL: Final = "does not exist"
_ENGINE_DEAD: Final = "EngineCore"


class Body(Payload):
    """A request body in memory, written in pieces so that a large one lets others have the event loop."""

    _value: bytes

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")
        self._size = len(value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if len(self._value) <= _WRITE_BYTES:
            await writer.write(self._value[:content_length])
            return
        view = memoryview(self._value)[:content_length]
        for start in range(0, len(view), _WRITE_BYTES):
            await writer.write(view[start : start + _WRITE_BYTES])


async def forward(gateway: Gateway, exchange: Exchange) -> None:
    """Send to the picked endpoint, and return once the client has its answer."""
    candidate = exchange.candidate
    exchange.stage = Stage.WAITING
    exchange.tries += 1
    try:
        async with gateway.attempts.open(candidate.endpoint.uid, gateway.settings.first_byte_seconds) as attempt:
            await _converse(gateway, exchange, attempt)
    except TimeoutError:
        detail = "pod deleted" if attempt.is_lost else "time-out"
        if exchange.reply.ended:
            return
        if exchange.reply.begun_at is not None:
            await _break_off(exchange, detail)
        elif attempt.is_lost:
            raise TryAgain(Failure.BROKEN, detail) from None
        else:
            raise Refusal(
                504,
                f"The engine did not answer within {gateway.settings.first_byte_seconds:g} s.",
                kind="server_error",
                code="engine_timeout",
            ) from None
    finally:
        candidate.in_flight -= 1


async def _converse(gateway: Gateway, exchange: Exchange, attempt: Attempt) -> None:
    try:
        response = await gateway.session.post(
            exchange.candidate.endpoint.origin + exchange.path,
            data=Body(exchange.body),
            headers=_request_headers(exchange),
            # An engine does not decide where else the gateway sends requests.
            allow_redirects=False,
        )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise TryAgain(Failure.NOT_CONNECTED, str(error)) from error
    except aiohttp.ClientError as error:
        raise TryAgain(Failure.BROKEN, f"{type(error).__name__}: {error}") from error
    try:
        if response.status == 200 and response.content_type == EVENT_STREAM:
            await _relay_stream(gateway, exchange, attempt, response)
        else:
            await _relay_whole(gateway, exchange, attempt, response)
    finally:
        # Does nothing to a connection that is done and back in the pool; any other must not be used again, and
        # closing it is what tells the engine to stop.
        response.close()


async def _relay_whole(
    gateway: Gateway, exchange: Exchange, attempt: Attempt, response: aiohttp.ClientResponse
) -> None:
    _raise_for_status(response.status)
    try:
        length = response.content_length
        if length is not None and length <= WHOLE_BYTES:
            body = await response.read()
            if response.status == 500:
                _raise_for_error(parse_error(body))
            if response.status == 404 and exchange.adapter:
                _raise_for_adapter(parse_error(body))
            routing.record_success(exchange.candidate)
            exchange.stage = Stage.STREAMING
            await exchange.reply.send(response.status, _response_headers(response), body)
            return
        while chunk := await response.content.readany():
            attempt.extend(gateway.settings.idle_seconds)
            if exchange.reply.begun_at is None:
                routing.record_success(exchange.candidate)
                exchange.stage = Stage.STREAMING
                await exchange.reply.begin(response.status, _response_headers(response))
            await exchange.reply.write(chunk)
        if exchange.reply.begun_at is None:
            await exchange.reply.begin(response.status, _response_headers(response))
        await exchange.reply.end()
    except aiohttp.ClientError as error:
        if exchange.reply.begun_at is None:
            raise TryAgain(Failure.BROKEN, str(error)) from error
        await _break_off(exchange, str(error))


async def _relay_stream(
    gateway: Gateway, exchange: Exchange, attempt: Attempt, response: aiohttp.ClientResponse
) -> None:
    reader = EventReader(exchange.path)
    reply = exchange.reply
    kept = b""
    """Comments before the first event; they wait for it."""
    while True:
        try:
            chunk = await _read(gateway, exchange, response.content)
        except aiohttp.ClientError as error:
            await _fail_stream(exchange, str(error))
            return
        if not chunk:
            await _fail_stream(exchange, "the stream ended early")
            return
        passage = reader.read(chunk)
        if not passage.whole:
            continue
        if reply.begun_at is None:
            if passage.error is not None and not passage.begun:
                _raise_for_error(passage.error, first_event=True)
            if not passage.begun and passage.error is None:
                kept += passage.whole
                continue
            routing.record_success(exchange.candidate)
            exchange.stage = Stage.STREAMING
            await reply.begin(response.status, _response_headers(response))
            await reply.write(kept + passage.whole, torn=reader.torn)
        else:
            await reply.write(passage.whole, torn=reader.torn)
        attempt.extend(gateway.settings.idle_seconds)
        if passage.done or passage.error is not None:
            await _end_stream(exchange, response, passage)
            return


async def _read(gateway: Gateway, exchange: Exchange, content: aiohttp.StreamReader) -> bytes:
    """The next chunk. While the client has nothing yet, its line is kept open."""
    while exchange.reply.begun_at is None:
        try:
            async with asyncio.timeout(exchange.next_beat - clock.monotonic()):
                return await content.readany()
        except TimeoutError:
            exchange.next_beat = clock.monotonic() + gateway.settings.heartbeat_seconds
            await exchange.reply.beat()
    return await content.readany()


async def _end_stream(exchange: Exchange, response: aiohttp.ClientResponse, passage: Passage) -> None:
    if passage.error is not None:
        # The engine has told the client already; what is left to do is to leave out the [DONE] that follows.
        exchange.error = passage.error.message
        exchange.reply.status = 502
        await exchange.reply.end()
        return
    await exchange.reply.end()
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            await response.content.readany()
    except (TimeoutError, aiohttp.ClientError):
        return


async def _fail_stream(exchange: Exchange, detail: str) -> None:
    if exchange.reply.begun_at is None:
        raise TryAgain(Failure.BROKEN, detail)
    await _break_off(exchange, detail)


async def _break_off(exchange: Exchange, detail: str) -> None:
    exchange.error = detail
    refusal = Refusal(
        502,
        "The engine failed while it was answering; what was sent is incomplete.",
        kind="server_error",
        code="engine_failed",
    )
    await exchange.reply.refuse(refusal)


def _raise_for_status(status: int) -> None:
    if status == 503:
        raise TryAgain(Failure.REFUSED, "503")
    if status in {502, 504}:
        raise TryAgain(Failure.BROKEN, str(status))


def _raise_for_error(error: StreamError | None, *, first_event: bool = False) -> None:
    """TryAgain where another engine would do better than the one that reports this."""
    if error is None:
        return
    if error.code == 503 or _SHUTTING_DOWN in error.message:
        raise TryAgain(Failure.REFUSED, error.message)
    if _ENGINE_DEAD in error.message or (first_event and error.code >= 500):
        raise TryAgain(Failure.BROKEN, error.message)


def _raise_for_adapter(error: StreamError | None) -> None:
    """TryAgain where the engine does not know the adapter; any other 404 is the client's to see."""
    if error is not None and _UNKNOWN_MODEL in error.message:
        raise TryAgain(Failure.NO_ADAPTER, error.message)


def _request_headers(exchange: Exchange) -> Mapping[str, str]:
    headers = exchange.request.headers
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return {
        **{
            name: value
            for name, value in headers.items()
            if (lower := name.lower()) not in _NOT_FORWARDED and lower not in named
        },
        "x-request-id": exchange.request_id,
    }


def _response_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    named = {name.strip().lower() for name in response.headers.get("Connection", "").split(",")}
    return {
        name: value
        for name, value in response.headers.items()
        if (lower := name.lower()) not in _NOT_RETURNED and lower not in named
    }
