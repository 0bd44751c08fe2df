"""The way of a request through the gateway, as a list of steps.

Each request goes once through `ONCE`, then through `PER_TRY` until it has its answer, and is counted, whatever
became of it. A step ends a request by raising `Refusal`; `forward` sends it round again by raising `TryAgain`.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, Protocol
from uuid import uuid4

from aiohttp import web

from lull.api.status import AdapterState
from lull.core import routing
from lull.core.admission import Verdict
from lull.core.routing import Choice
from lull.doors import clock
from lull.gateway.exchange import Exchange, Failure, Stage, TryAgain
from lull.gateway.forwarding import forward
from lull.gateway.reply import ClientLeft, Reply
from lull.wire.openai import Refusal, parse_call, unavailable, unknown_model

if TYPE_CHECKING:
    from lull.api.llmdeployment import Key, LLMDeployment
    from lull.gateway.directory import Directory
    from lull.gateway.exchange import Gateway

RETRY_AFTER_FULL: Final = 5.0
RETRY_AFTER_COLD: Final = 10.0
RETRY_AFTER_STOPPING: Final = 1.0
RETRY_AFTER_FAILED: Final = 60.0
CLIENT_LEFT: Final = 499
"""In metrics and logs only, as nginx has it."""

_TIMER_MARGIN: Final = 0.01
_MAX_REQUEST_ID: Final = 128


class Step(Protocol):
    __name__: str

    async def __call__(self, gateway: Gateway, exchange: Exchange, /) -> None: ...


async def serve(gateway: Gateway, request: web.BaseRequest, path: str) -> web.StreamResponse:
    """Answer one inference request."""
    now = clock.monotonic()
    request_id = _request_id(request)
    reply = Reply(request, request_id=request_id)
    reply.closing = gateway.stopping
    exchange = Exchange(
        request=request,
        path=path,
        request_id=request_id,
        arrived_at=now,
        reply=reply,
        next_beat=now + gateway.settings.heartbeat_seconds,
    )
    try:
        await _run(gateway, exchange)
    except Refusal as refusal:
        exchange.error = exchange.error or refusal.message
        await _refuse(exchange, refusal)
    except ClientLeft:
        exchange.client_left = True
    except asyncio.CancelledError:
        exchange.client_left = True
        raise
    finally:
        count(gateway, exchange)
        _leave(gateway, exchange)
    return reply.response


async def receive(gateway: Gateway, exchange: Exchange) -> None:
    """Read the body, within the limits of size, time and memory."""
    request = exchange.request
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal(415, "Send the body without Content-Encoding.", code="unsupported_encoding")
    announced = request.content_length or 0
    _check_size(gateway, announced, announced)
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(gateway.settings.body_seconds):
            while chunk := await request.content.readany():
                _check_size(gateway, exchange.size + len(chunk), len(chunk))
                exchange.size += len(chunk)
                gateway.pending_bytes += len(chunk)
                chunks.append(chunk)
    except TimeoutError:
        exchange.reply.closing = True
        raise Refusal(
            408, f"The body did not arrive within {gateway.settings.body_seconds:g} s.", code="body_timeout"
        ) from None
    except web.RequestPayloadError as error:
        exchange.reply.closing = True
        raise Refusal(400, f"The body could not be read: {error}", code="invalid_body") from None
    exchange.body = b"".join(chunks)


async def find_model(gateway: Gateway, exchange: Exchange) -> None:
    """Read the model's name from the body, and look it up."""
    call = exchange.call = parse_call(exchange.path, exchange.body)
    directory = gateway.directory
    is_known = directory.is_synced and directory.catalogue.find(call.model) is not None
    if not is_known and not (directory.is_synced and directory.is_current):
        # A name is unknown only to a catalogue that is up to date; a known one goes on without the API server.
        try:
            async with asyncio.timeout(gateway.settings.sync_seconds):
                await directory.wait_current()
        except TimeoutError:
            raise not_synced() from None
    catalogue = gateway.directory.catalogue
    exchange.deployment = catalogue.find(call.model)
    deployment = _require_known(gateway, exchange)
    exchange.limits = gateway.directory.limits(deployment)
    if call.model in catalogue.adapters:
        exchange.adapter = call.model
        if why := find_failure(gateway.directory, deployment.key, call.model):
            raise adapter_failed(call.model, why)


async def admit(gateway: Gateway, exchange: Exchange) -> None:
    """Let go, hold until there is capacity, or shed."""
    assert exchange.deployment is not None
    now = clock.monotonic()
    if exchange.ticket is None:
        gateway.budget.record_request(now=now)
        exchange.deadline = now + exchange.limits.hold_seconds
        exchange.ticket, verdict = gateway.lines.arrive(
            exchange.deployment.key, size=exchange.size, limits=exchange.limits, adapter=exchange.adapter
        )
        if verdict in {Verdict.SHED_COUNT, Verdict.SHED_BYTES}:
            what = "requests" if verdict is Verdict.SHED_COUNT else "bytes of requests"
            raise unavailable(
                429,
                f"Too many {what} wait for this model already. Try again later.",
                code="queue_full",
                retry_after=RETRY_AFTER_FULL,
            )
    else:
        _require_known(gateway, exchange)
        gateway.lines.hold_again(exchange.ticket)
    waiter = gateway.lines.waiter(exchange.ticket)
    if waiter is None:
        return
    exchange.stage = Stage.HELD
    if exchange.adapter:
        gateway.residency.review(exchange.deployment.key)
    try:
        await _wait(gateway, exchange, waiter)
    finally:
        exchange.held_seconds += clock.monotonic() - now
    if not waiter.done():
        raise _expired(gateway, exchange)
    refusal = waiter.result()
    if refusal is not None:
        raise refusal


async def pick(gateway: Gateway, exchange: Exchange) -> None:
    """Choose the endpoint, and count the request as in flight there."""
    assert exchange.deployment is not None
    assert exchange.ticket is not None
    choice = Choice(
        slots=routing.slots(exchange.deployment),
        turn=exchange.ticket.number,
        tried=exchange.tried,
        adapter=exchange.adapter,
    )
    candidate = routing.pick(gateway.directory.candidates(exchange.deployment.key), choice, now=clock.monotonic())
    if candidate is None:
        raise TryAgain(Failure.NO_ENDPOINT, "the endpoint went away")
    candidate.in_flight += 1
    gateway.lines.start(exchange.ticket)
    exchange.candidate = candidate


def count(gateway: Gateway, exchange: Exchange) -> None:
    """Metrics and one log line, without a word of what was asked or answered."""
    now = clock.monotonic()
    reply = exchange.reply
    code = CLIENT_LEFT if exchange.client_left else reply.status or 500
    key = exchange.deployment.key if exchange.deployment is not None else None
    labels = (key.namespace, key.name) if key is not None else ("", "")
    metrics = gateway.metrics
    metrics.requests.labels(*labels, str(code)).inc()
    if key is not None and exchange.adapter and exchange.adapter in gateway.directory.list_adapters(key):
        metrics.adapter_requests.labels(*labels, exchange.adapter, str(code)).inc()
    if key is not None:
        metrics.seconds.labels(*labels).observe(now - exchange.arrived_at)
        if exchange.held_seconds:
            metrics.held_seconds.labels(*labels).observe(exchange.held_seconds)
        if exchange.tries and reply.begun_at is not None:
            metrics.first_byte_seconds.labels(*labels).observe(reply.begun_at - exchange.arrived_at)
        if exchange.client_left or (exchange.error and exchange.stage is Stage.STREAMING):
            by = "client" if exchange.client_left else "engine"
            metrics.aborted.labels(*labels, exchange.stage.value, by).inc()
    gateway.log.info(
        "request",
        request_id=exchange.request_id,
        path=exchange.path,
        model=exchange.call.model if exchange.call is not None and key is not None else None,
        deployment=None if key is None else str(key),
        code=code,
        stream=exchange.call.stream if exchange.call is not None else None,
        stage=exchange.stage.value,
        bytes=exchange.size,
        held_seconds=round(exchange.held_seconds, 4),
        first_byte_seconds=None if reply.begun_at is None else round(reply.begun_at - exchange.arrived_at, 4),
        seconds=round(now - exchange.arrived_at, 4),
        tries=exchange.tries,
        endpoint=exchange.candidate.endpoint.pod if exchange.tries else None,
        error=exchange.error or None,
    )


ONCE: Final[tuple[Step, ...]] = (receive, find_model)
PER_TRY: Final[tuple[Step, ...]] = (admit, pick, forward)


async def _run(gateway: Gateway, exchange: Exchange) -> None:
    for step in ONCE:
        await step(gateway, exchange)
    while not exchange.reply.ended:
        try:
            for step in PER_TRY:
                await step(gateway, exchange)
        except TryAgain as again:
            await _reconsider(gateway, exchange, again)


async def _reconsider(gateway: Gateway, exchange: Exchange, again: TryAgain) -> None:
    """After a failed try: avoid that endpoint for a while, and go back in line unless this has gone on for too long.

    An engine that was not reached or took nothing on costs no more than time, so only the deadline ends that. One
    that failed with the request in hand may have failed because of it, so those are counted.
    """
    if again.failure is Failure.NO_ENDPOINT:
        return
    assert exchange.deployment is not None
    key = exchange.deployment.key
    now = clock.monotonic()
    candidate = exchange.candidate
    if again.failure is Failure.NO_ADAPTER:
        # It restarted, or was told to let go of it. It is asked again what it has, before anybody is sent there.
        gateway.directory.record_adapters(
            key, candidate.endpoint.uid, frozenset(candidate.adapters) - {exchange.adapter}
        )
        gateway.metrics.retries.labels(key.namespace, key.name, again.failure.value).inc()
        return
    exchange.tried.add(candidate.endpoint.uid)
    avoid_until = routing.record_failure(candidate, now=now)
    # Where this was the only endpoint, nothing else tells those who wait that it may be asked again.
    asyncio.get_running_loop().call_later(avoid_until - now + _TIMER_MARGIN, gateway.lines.release, key)
    gateway.log.warning(
        "try failed",
        request_id=exchange.request_id,
        deployment=str(key),
        endpoint=candidate.endpoint.pod,
        reason=again.failure.value,
        error=again.detail[:500],
    )
    if again.failure is Failure.BROKEN:
        exchange.broken += 1
        exchange.deadline = now + exchange.limits.hold_seconds
        if exchange.broken >= gateway.settings.max_tries:
            exchange.error = again.detail[:500]
            raise Refusal(
                502,
                f"{exchange.broken} engines in a row failed with this request.",
                kind="server_error",
                code="engine_failed",
            )
    if now >= exchange.deadline:
        raise _expired(gateway, exchange)
    gateway.metrics.retries.labels(key.namespace, key.name, again.failure.value).inc()
    if gateway.directory.free(key, now=now, adapter=exchange.adapter) > 0:
        # Otherwise it waits in line anyway.
        pause = min(gateway.budget.take(now=now), exchange.deadline - now)
        if pause > 0:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads retries only


async def _wait(gateway: Gateway, exchange: Exchange, waiter: asyncio.Future[Refusal | None]) -> None:
    """Until let go, turned away, or the deadline; a stream's line is kept open meanwhile."""
    assert exchange.call is not None
    while not waiter.done():
        now = clock.monotonic()
        if now >= exchange.deadline:
            return
        if exchange.call.stream and now >= exchange.next_beat:
            exchange.next_beat = now + gateway.settings.heartbeat_seconds
            await exchange.reply.beat()
            continue
        until = min(exchange.deadline, exchange.next_beat) if exchange.call.stream else exchange.deadline
        await asyncio.wait((waiter,), timeout=until - now)


def _require_known(gateway: Gateway, exchange: Exchange) -> LLMDeployment:
    """What the request is for, as long as it exists."""
    assert exchange.call is not None
    catalogue = gateway.directory.catalogue
    is_there = exchange.deployment is not None and exchange.deployment.key in catalogue.deployments
    if exchange.deployment is None or not is_there or (exchange.adapter and exchange.adapter not in catalogue.adapters):
        raise unknown_model(exchange.call.model, catalogue.names)
    return exchange.deployment


def find_failure(directory: Directory, key: Key, adapter: str) -> str | None:
    """Why it is no use to wait for an adapter: nobody has it, and status says that it cannot be loaded.

    A status that speaks of an earlier spec says nothing: the adapter may have been put right since.
    """
    deployment = directory.catalogue.deployments.get(key)
    if deployment is None or deployment.status.observed_generation < deployment.generation:
        return None
    said = next((one for one in deployment.status.adapters if one.name == adapter), None)
    if said is None or said.state is not AdapterState.FAILED:
        return None
    if any(one.endpoint.ready and adapter in one.adapters for one in directory.candidates(key)):
        return None
    return said.message or "see the status of its LLMDeployment."


def adapter_failed(adapter: str, why: str) -> Refusal:
    refusal = unavailable(
        503,
        f"The adapter `{adapter}` cannot be loaded: {why}",
        code="adapter_failed",
        retry_after=RETRY_AFTER_FAILED,
    )
    # Only a person can help: OpenAI's clients know this word, and would try on their own for minutes without it.
    refusal.headers["x-should-retry"] = "false"
    return refusal


def _expired(gateway: Gateway, exchange: Exchange) -> Refusal:
    assert exchange.deployment is not None
    seconds = exchange.limits.hold_seconds
    ready = [one for one in gateway.directory.candidates(exchange.deployment.key) if one.endpoint.ready]
    if ready and not any(routing.has_adapter(one, exchange.adapter) for one in ready):
        return unavailable(
            503,
            f"No replica loaded the adapter `{exchange.adapter}` within {seconds:g} s.",
            code="adapter_not_loaded",
            retry_after=RETRY_AFTER_COLD,
        )
    if ready:
        return unavailable(
            429,
            f"Every replica of this model was busy for {seconds:g} s.",
            code="saturated",
            retry_after=RETRY_AFTER_FULL,
        )
    return unavailable(
        503,
        f"No replica of this model became ready within {seconds:g} s. It may still be starting.",
        code="cold_start_timeout",
        retry_after=RETRY_AFTER_COLD,
    )


def not_synced() -> Refusal:
    """What is said while the list of models is not up to date: then nobody knows what is unknown."""
    return unavailable(
        503, "The gateway has no current list of models.", code="not_ready", retry_after=RETRY_AFTER_FULL
    )


def stopping() -> Refusal:
    """What those who wait are told when the gateway stops: another one will have them."""
    return unavailable(503, "The gateway is stopping. Try again.", code="stopping", retry_after=RETRY_AFTER_STOPPING)


def _check_size(gateway: Gateway, size: int, added: int) -> None:
    limit = gateway.settings.max_body_bytes
    if size > limit:
        raise Refusal(413, f"The body is larger than {limit} bytes.", code="body_too_large")
    if gateway.pending_bytes + added > gateway.settings.max_pending_bytes:
        raise unavailable(
            503, "The gateway has no memory left for this request.", code="overloaded", retry_after=RETRY_AFTER_FULL
        )


async def _refuse(exchange: Exchange, refusal: Refusal) -> None:
    try:
        await exchange.reply.refuse(refusal)
    except ClientLeft:
        exchange.client_left = True


def _leave(gateway: Gateway, exchange: Exchange) -> None:
    gateway.pending_bytes -= exchange.size
    if exchange.ticket is None:
        return
    gateway.lines.leave(exchange.ticket)
    key = exchange.ticket.key
    if key not in gateway.directory.catalogue.deployments:
        # The last one out of a model that was deleted meanwhile.
        gateway.lines.forget(key)
        gateway.metrics.forget(key)


def _request_id(request: web.BaseRequest) -> str:
    """The client's own, where it is harmless to log and to pass on; else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if 0 < len(given) <= _MAX_REQUEST_ID and given.isascii() and given.isprintable() else uuid4().hex
