"""The way of a request through the gateway, as a list of steps.

Each request goes once through `ONCE`, then through `admit`, `pick` and `forward` until it has its answer, and is
settled, remembered and counted, whatever became of it. A step ends a request by raising `Refusal`, and raises `Defer`
where it has to wait. All of it runs in callbacks of the event loop: where nothing has to be waited for there is no
task, and a request costs what its steps cost.
"""

from __future__ import annotations

import asyncio
import math
import random
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from lull.api.model import Task
from lull.api.status import AdapterState
from lull.core import routing
from lull.core.admission import Verdict
from lull.core.affinity import measure_work
from lull.core.routing import Choice
from lull.doors import clock
from lull.gateway import access, listing, tracing
from lull.gateway.continuing import continue_stream
from lull.gateway.counting import count
from lull.gateway.detour import detour, turn
from lull.gateway.exchange import Defer, Failure, Stage
from lull.gateway.recall import recall, remember
from lull.gateway.relay import Relay
from lull.wire.openai import (
    GENERATING_PATHS,
    INFERENCE_PATHS,
    POOLING_PATHS,
    Refusal,
    parse_call,
    unavailable,
    unknown_model,
    wrong_path,
)

if TYPE_CHECKING:
    from lull.api.llmdeployment import Key, LLMDeployment
    from lull.gateway.directory import Directory
    from lull.gateway.exchange import Exchange, Gateway

RETRY_AFTER_FULL: Final = 5.0
RETRY_AFTER_COLD: Final = 10.0
RETRY_AFTER_STOPPING: Final = 1.0
RETRY_AFTER_FAILED: Final = 60.0
HEARTBEAT_AT_LEAST: Final = 1.0

_TIMER_MARGIN: Final = 0.01


class Step(Protocol):
    __name__: str

    def __call__(self, gateway: Gateway, exchange: Exchange, /) -> None: ...


def find_model(gateway: Gateway, exchange: Exchange) -> None:
    """Read from the body what is asked of which model, and look the model up."""
    exchange.call = parse_call(exchange.path, exchange.body)
    exchange.is_parsed = True
    access.check_model(exchange)
    directory = gateway.directory
    is_synced = directory.is_synced
    if not (is_synced and (exchange.call.model in directory.catalogue.names or directory.is_current)):
        raise Defer(_wait_for_catalogue(gateway, exchange))
    _look_up(gateway, exchange)


def admit(gateway: Gateway, exchange: Exchange) -> bool:
    """Let go, or hold until there is capacity (False), or shed."""
    assert exchange.deployment is not None
    now = clock.monotonic()
    if exchange.ticket is None:
        gateway.budget.record_request(now=now)
        exchange.deadline = now + exchange.hold_seconds
        exchange.ticket, verdict = gateway.lines.arrive(exchange, exchange.deployment.key, exchange.limits)
        if verdict is Verdict.ADMIT:
            return True
        if verdict is not Verdict.HOLD:
            raise queue_full("requests" if verdict is Verdict.SHED_COUNT else "bytes of requests")
    else:
        _require_known(gateway, exchange)
        gateway.lines.hold_again(exchange.ticket, exchange)
    exchange.stage = Stage.HELD
    exchange.held_since = now
    exchange.due = exchange.deadline
    _await_beats(exchange, now)
    if exchange.adapter:
        gateway.residency.review(exchange.deployment.key)
    return False


def pick(gateway: Gateway, exchange: Exchange) -> bool:
    """Choose the endpoint; False where it went away since the request was let go."""
    assert exchange.deployment is not None
    assert exchange.ticket is not None
    choice = Choice(
        slots=routing.slots(exchange.deployment),
        turn=exchange.ticket.number,
        tried=exchange.tried,
        adapter=exchange.adapter,
        work=exchange.work,
    )
    candidates = gateway.directory.candidates(exchange.deployment.key)
    exchange.candidate = routing.pick(candidates, choice, now=clock.monotonic())
    return exchange.candidate is not None


def forward(gateway: Gateway, exchange: Exchange) -> None:
    """Send the request to the endpoint that was picked."""
    assert exchange.candidate is not None
    assert exchange.ticket is not None
    now = clock.monotonic()
    exchange.stage = Stage.WAITING
    exchange.tries += 1
    limits = exchange.limits
    exchange.first_byte_seconds = limits.first_byte_seconds or gateway.settings.first_byte_seconds
    exchange.idle_seconds = limits.idle_seconds or gateway.settings.idle_seconds
    exchange.total_due = min(exchange.total_due, now + limits.total_seconds)
    exchange.due = min(now + exchange.first_byte_seconds, exchange.total_due)
    _await_beats(exchange, now)
    if gateway.tracer is not None:
        tracing.begin_try(gateway.tracer, exchange, now=now)
    relay = exchange.relay = Relay(gateway, exchange, exchange.candidate)
    relay.start()
    gateway.lines.start(exchange.ticket)


ONCE: Final[tuple[Step, ...]] = (access.authenticate, find_model, detour, access.charge, recall)


def serve(gateway: Gateway, exchange: Exchange) -> None:
    """Answer one request."""
    gateway.exchanges.add(exchange)
    if exchange.method == "POST" and exchange.path in INFERENCE_PATHS:
        _step(gateway, exchange, 0)
    else:
        listing.answer(gateway, exchange)
        finish(gateway, exchange)


def leave(gateway: Gateway, exchange: Exchange) -> None:
    """The client is gone."""
    if exchange.is_over:
        return
    exchange.client_left = True
    if exchange.task is not None:
        exchange.task.cancel()
    if exchange.relay is not None:
        exchange.relay.cancel()
    finish(gateway, exchange)


def sweep(gateway: Gateway, now: float) -> None:
    """Time has passed: end what has lasted for too long, and keep the lines open of those that wait."""
    for exchange in tuple(gateway.exchanges):
        if exchange.is_over:
            continue
        if now >= exchange.due:
            exchange.due = math.inf
            if exchange.relay is not None:
                exchange.relay.expire()
            else:
                refuse(gateway, exchange, _expired(gateway, exchange))
        elif now >= exchange.next_beat:
            exchange.next_beat = now + exchange.beat_seconds
            if exchange.begun_at is None:
                exchange.reply.beat()
            else:
                exchange.next_beat = math.inf
    gateway.engines.sweep(now)


def go(gateway: Gateway, exchange: Exchange) -> None:
    """A request that was held is let go."""
    if exchange.is_over:
        return
    exchange.held_seconds += clock.monotonic() - exchange.held_since
    try:
        if pick(gateway, exchange):
            forward(gateway, exchange)
        else:
            admit(gateway, exchange)
    except Refusal as refusal:
        refuse(gateway, exchange, refusal)


def refuse(gateway: Gateway, exchange: Exchange, refusal: Refusal) -> None:
    """End a request with a no, unless another model takes it on."""
    if exchange.is_over:
        return
    if exchange.stage is Stage.HELD:
        exchange.held_seconds += clock.monotonic() - exchange.held_since
    if refusal.code is not None and turn(gateway, exchange, refusal.code):
        _try(gateway, exchange)
        return
    exchange.error = exchange.error or refusal.message
    exchange.reason = refusal.code or ""
    exchange.recording = None
    exchange.reply.refuse(refusal)
    finish(gateway, exchange)


def finish(gateway: Gateway, exchange: Exchange) -> None:
    """A request is over: settle, remember and count it, and give its place to another."""
    if exchange.is_over:
        return
    exchange.is_over = True
    exchange.ended_at = clock.monotonic()
    access.settle(gateway, exchange)
    remember(gateway, exchange)
    count(gateway, exchange)
    gateway.exchanges.discard(exchange)
    gateway.pending_bytes -= exchange.size
    if exchange.ticket is None:
        return
    gateway.lines.leave(exchange.ticket)
    key = exchange.ticket.key
    if key not in gateway.directory.catalogue.deployments:
        # The last one out of a model that was deleted meanwhile.
        gateway.lines.forget(key)
        gateway.counts.forget(key)


class Outcomes:
    """What tries come to, for those who make them (`relay.Outcome`)."""

    __slots__ = ("_gateway",)

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def failed(self, exchange: Exchange, failure: Failure, detail: str) -> None:
        """Avoid that endpoint for a while, and go back in line unless this has gone on for too long."""
        tracing.fail_try(exchange, failure.value)
        try:
            pause = _reconsider(self._gateway, exchange, failure, detail)
        except Refusal as refusal:
            refuse(self._gateway, exchange, refusal)
            return
        if pause > 0:
            # In no stage that the sweep could end: the pause is shorter than that.
            exchange.due = math.inf
            asyncio.get_running_loop().call_later(pause, _try, self._gateway, exchange)
        else:
            _try(self._gateway, exchange)

    def refused(self, exchange: Exchange, refusal: Refusal) -> None:
        refuse(self._gateway, exchange, refusal)

    def broke_off(self, exchange: Exchange, detail: str) -> None:
        if clock.monotonic() < exchange.total_due and (body := continue_stream(exchange)):
            exchange.body = body
            if exchange.deployment is not None:
                self._gateway.counts.of(exchange.deployment.key).continued += 1
            self.failed(exchange, Failure.BROKEN, detail)
            return
        exchange.error = detail
        refuse(
            self._gateway,
            exchange,
            _engine_failed("The engine failed while it was answering; what was sent is incomplete."),
        )

    def finished(self, exchange: Exchange) -> None:
        finish(self._gateway, exchange)


def _step(gateway: Gateway, exchange: Exchange, at: int) -> None:
    """Go on with a step of ONCE, and with the first try after the last of them."""
    try:
        for index in range(at, len(ONCE)):
            at = index
            ONCE[index](gateway, exchange)
            if exchange.reply.ended:
                finish(gateway, exchange)
                return
    except Defer as deferred:
        exchange.task = asyncio.get_running_loop().create_task(_wait(gateway, exchange, deferred, at + 1))
        exchange.task.add_done_callback(partial(_look_after, exchange))
        return
    except Refusal as refusal:
        refuse(gateway, exchange, refusal)
        return
    _try(gateway, exchange)


async def _wait(gateway: Gateway, exchange: Exchange, deferred: Defer, following: int) -> None:
    try:
        await deferred.awaitable
    except Refusal as refusal:
        exchange.task = None
        refuse(gateway, exchange, refusal)
        return
    exchange.task = None
    if not exchange.is_over:
        _step(gateway, exchange, following)


def _look_after(exchange: Exchange, task: asyncio.Task[None]) -> None:
    """A fault of ours costs the request in which it shows, as it does in a callback, and no other."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    asyncio.get_running_loop().call_exception_handler({"message": "a request failed", "exception": error})
    exchange.reply.abort()


def _try(gateway: Gateway, exchange: Exchange) -> None:
    if exchange.is_over:
        return
    try:
        while admit(gateway, exchange):
            if pick(gateway, exchange):
                forward(gateway, exchange)
                return
    except Refusal as refusal:
        refuse(gateway, exchange, refusal)


def _reconsider(gateway: Gateway, exchange: Exchange, failure: Failure, detail: str) -> float:
    """What a failed try means for its endpoint; seconds to wait before the next one.

    An engine that was not reached or took nothing on costs no more than time, so only the deadline ends that. One
    that failed with the request in hand may have failed because of it, so those are counted.
    """
    assert exchange.deployment is not None
    assert exchange.candidate is not None
    key = exchange.deployment.key
    now = clock.monotonic()
    candidate = exchange.candidate
    if failure is Failure.NO_ADAPTER:
        # It restarted, or was told to let go of it. It is asked again what it has, before anybody is sent there.
        gateway.directory.record_adapters(
            key, candidate.endpoint.uid, frozenset(candidate.adapters) - {exchange.adapter}
        )
        gateway.counts.of(key).retries[failure.value] += 1
        return 0.0
    exchange.tried.add(candidate.endpoint.uid)
    avoid_until = routing.record_failure(candidate, now=now)
    # Where this was the only endpoint, nothing else tells those who wait that it may be asked again.
    asyncio.get_running_loop().call_later(avoid_until - now + _TIMER_MARGIN, gateway.lines.release, key)
    gateway.log.warning(
        "try failed",
        request_id=exchange.request_id,
        deployment=str(key),
        endpoint=candidate.endpoint.pod,
        reason=failure.value,
        error=detail[:500],
    )
    if failure is Failure.BROKEN:
        exchange.broken += 1
        exchange.deadline = now + exchange.hold_seconds
        if exchange.broken >= gateway.settings.max_tries:
            exchange.error = detail[:500]
            raise _engine_failed(f"Every engine that was asked failed with this request: {exchange.broken} in a row.")
    if now >= exchange.deadline:
        raise _expired(gateway, exchange)
    gateway.counts.of(key).retries[failure.value] += 1
    if gateway.directory.free(key, now=now, adapter=exchange.adapter) > 0:
        # Otherwise it waits in line anyway.
        pause = min(gateway.budget.take(now=now), exchange.deadline - now)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  spreads retries only
    return 0.0


async def _wait_for_catalogue(gateway: Gateway, exchange: Exchange) -> None:
    """A name is unknown only to a catalogue that is up to date; a known one goes on without the API server."""
    try:
        async with asyncio.timeout(gateway.settings.sync_seconds):
            await gateway.directory.wait_current()
    except TimeoutError:
        raise listing.not_synced() from None
    _look_up(gateway, exchange)


def _look_up(gateway: Gateway, exchange: Exchange) -> None:
    directory = gateway.directory
    catalogue = directory.catalogue
    call = exchange.call
    deployment = exchange.deployment = catalogue.find(call.model)
    if deployment is None:
        raise unknown_model(call.model, access.list_names(exchange.key, catalogue.names))
    model = deployment.spec.model
    # Without a cluster nobody knows the source nor the task, and the engine answers for itself.
    if model.source and call.path in (POOLING_PATHS if model.task is Task.GENERATE else GENERATING_PATHS):
        raise wrong_path(call, model.task)
    exchange.limits = directory.limits(deployment)
    if call.model in catalogue.adapters:
        exchange.adapter = call.model
        if why := find_failure(directory, deployment.key, call.model):
            raise adapter_failed(call.model, why)
    exchange.work = measure_work(call, size=exchange.size, adapter=exchange.adapter)
    exchange.hold_seconds = exchange.limits.hold_seconds
    exchange.beat_seconds = gateway.settings.heartbeat_seconds
    for name, value in exchange.headers:
        if name.startswith(b"x-lull-"):
            _heed(exchange, name, value)


def _heed(exchange: Exchange, name: bytes, value: bytes) -> None:
    """What a client may wish: to wait for less long, or to be told more often that it waits."""
    if name not in {b"x-lull-timeout", b"x-lull-heartbeat"}:
        return
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise Refusal(400, f"{name.decode()} is a number of seconds.", code="invalid_header")
    if name == b"x-lull-timeout":
        exchange.hold_seconds = min(exchange.hold_seconds, seconds)
    else:
        exchange.beat_seconds = max(HEARTBEAT_AT_LEAST, seconds)


def _await_beats(exchange: Exchange, now: float) -> None:
    """Keep a stream's line open while it waits."""
    if exchange.call.stream and exchange.begun_at is None and exchange.next_beat > now + exchange.beat_seconds:
        exchange.next_beat = now + exchange.beat_seconds


def _require_known(gateway: Gateway, exchange: Exchange) -> LLMDeployment:
    """What the request is for, as long as it exists."""
    catalogue = gateway.directory.catalogue
    is_there = exchange.deployment is not None and exchange.deployment.key in catalogue.deployments
    if exchange.deployment is None or not is_there or (exchange.adapter and exchange.adapter not in catalogue.adapters):
        raise unknown_model(exchange.call.model, access.list_names(exchange.key, catalogue.names))
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
    seconds = exchange.hold_seconds
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


def _engine_failed(message: str) -> Refusal:
    return Refusal(502, message, kind="server_error", code="engine_failed")


def queue_full(what: str = "requests") -> Refusal:
    """What those are told who find no place in line, or lose it to another."""
    return unavailable(
        429,
        f"Too many {what} wait for this model already. Try again later.",
        code="queue_full",
        retry_after=RETRY_AFTER_FULL,
    )


def gone(model: str) -> Refusal:
    """What those who wait are told when there is nothing to wait for any more."""
    return Refusal(404, f"The model `{model}` does not exist any more.", param="model", code="model_not_found")


def stopping() -> Refusal:
    """What those who wait are told when the gateway stops: another one will have them."""
    return unavailable(503, "The gateway is stopping. Try again.", code="stopping", retry_after=RETRY_AFTER_STOPPING)
