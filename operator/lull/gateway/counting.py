"""What is known of a request when it is over: counted, written into the log, and told to whoever traces.

None of it has a word of what was asked or answered. Labels are names that exist: what a client made up counts under
no name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.doors import clock
from lull.gateway import tracing
from lull.gateway.exchange import Stage
from lull.wire.openai import POOLING_PATHS

if TYPE_CHECKING:
    from lull.doors.gateway_counts import DeploymentCounts, ServiceCounts
    from lull.gateway.exchange import Exchange, Gateway

CLIENT_LEFT: Final = 499
"""In metrics and logs only, as nginx has it."""

_NO_CAPACITY: Final = frozenset({"queue_full", "saturated", "cold_start_timeout", "engine_timeout"})
"""Codes of refusals that more replicas would have spared."""
_LONGEST_PATH: Final = 128
_LONGEST_ERROR: Final = 500


def count(gateway: Gateway, exchange: Exchange) -> None:
    """The last step of every request, whatever became of it."""
    code = CLIENT_LEFT if exchange.client_left else exchange.reply.status or 500
    _count(gateway, exchange, str(code))
    trace_id = None if gateway.tracer is None else tracing.end(gateway.tracer, exchange, code)
    if gateway.access_log.wants(failed=code >= 400 or bool(exchange.error)):
        _log(gateway, exchange, code, trace_id)


def count_beginning(gateway: Gateway, exchange: Exchange) -> None:
    """A stream has begun; its end may be minutes away."""
    begun_at, deployment = exchange.reply.begun_at, exchange.deployment
    assert begun_at is not None
    assert deployment is not None
    service = gateway.counts.of(deployment.key).service
    service.first_token.add(begun_at - exchange.arrived_at, now=begun_at)


def _count(gateway: Gateway, exchange: Exchange, code: str) -> None:
    total = gateway.counts
    key_id = exchange.key.id if exchange.key is not None else ""
    total.count_key(key_id, code)
    deployment = exchange.deployment
    if deployment is None or deployment.key not in gateway.directory.catalogue.deployments:
        total.nobody.requests[code] += 1
        if exchange.reason:
            total.nobody.refused[exchange.reason] += 1
        return
    counts = total.of(deployment.key)
    counts.requests[code] += 1
    if exchange.reason:
        counts.refused[exchange.reason] += 1
    if aborter := _find_aborter(exchange):
        counts.aborted[exchange.stage.value][aborter] += 1
    tokens = counts.tokens
    if exchange.adapter and exchange.adapter in deployment.adapter_names:
        adapter = counts.adapters[exchange.adapter]
        adapter.requests[code] += 1
        tokens = adapter.tokens
    usage = exchange.usage
    if usage is not None:
        spent = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        tokens.add(*spent)
        total.spend(counts, key_id, *spent)
    _observe(counts, exchange)
    _judge(counts.service, exchange)


def _find_aborter(exchange: Exchange) -> str:
    """Who ended a request before it was answered, or in the midst of the answer."""
    if exchange.is_cut:
        return "gateway"
    if exchange.client_left:
        return "client"
    return "engine" if exchange.error and exchange.stage is Stage.STREAMING else ""


def _observe(counts: DeploymentCounts, exchange: Exchange) -> None:
    arrived_at, begun_at = exchange.arrived_at, exchange.reply.begun_at
    counts.seconds.observe(exchange.ended_at - arrived_at)
    if exchange.held_seconds:
        counts.held_seconds.observe(exchange.held_seconds)
    if begun_at is None or not exchange.tries:
        return
    counts.first_byte_seconds.observe(begun_at - arrived_at)
    if exchange.events:
        counts.first_token_seconds.observe(begun_at - arrived_at)
        if exchange.usage is not None and exchange.usage.completion_tokens > 1:
            after_first = exchange.usage.completion_tokens - 1
            counts.output_token_seconds.observe((exchange.ended_at - begun_at) / after_first)


def _judge(service: ServiceCounts, exchange: Exchange) -> None:
    """Whether an answer came within the SLO. What failed, was wrong or was left is no answer."""
    if exchange.ticket is None:
        return
    if exchange.reason in _NO_CAPACITY:
        service.missed += 1
        return
    begun_at, status = exchange.reply.begun_at, exchange.reply.status
    if begun_at is None or not exchange.tries or exchange.error or status >= 500:
        return
    service.finished += 1
    usage, limits, now = exchange.usage, exchange.limits, exchange.ended_at
    after_first = 0 if usage is None else max(0, usage.completion_tokens - 1)
    if exchange.client_left or status != 200:
        return
    if exchange.events:
        is_met = begun_at - exchange.arrived_at <= limits.slo_first_token
        if after_first:
            seconds = (now - begun_at) / after_first
            service.per_token.add(seconds, now=now)
            is_met = is_met and seconds <= limits.slo_per_token
    elif usage is not None or exchange.path in POOLING_PATHS:
        # When it began nobody saw, so all of it may take as long as all of a stream. How quick an engine writes it
        # does not tell: most of its time may have been the wait for its turn. All of it together does.
        share = (now - exchange.arrived_at) / (limits.slo_first_token + after_first * limits.slo_per_token)
        service.whole.add(share, now=now)
        is_met = share <= 1
    else:
        return
    if is_met:
        service.met += 1
    else:
        service.missed += 1


def _log(gateway: Gateway, exchange: Exchange, code: int, trace_id: str | None) -> None:
    deployment = exchange.deployment
    usage = exchange.usage
    arrived_at, begun_at = exchange.arrived_at, exchange.reply.begun_at
    first_byte_seconds = None if begun_at is None else _shorten(begun_at - arrived_at)
    gateway.access_log.record(
        {
            "request_id": exchange.request_id,
            "trace_id": trace_id,
            "key": exchange.key.id if exchange.key is not None else None,
            "path": exchange.path[:_LONGEST_PATH],
            "model": exchange.call.model if deployment is not None else None,
            "deployment": None if deployment is None else str(deployment.key),
            "served": exchange.served or None,
            "code": code,
            "stream": exchange.call.stream if exchange.is_parsed else None,
            "stage": exchange.stage,
            "aborted_by": _find_aborter(exchange) or None,
            "bytes": exchange.size,
            "input_tokens": None if usage is None else usage.prompt_tokens,
            "cached_tokens": None if usage is None else usage.cached_tokens,
            "output_tokens": None if usage is None else usage.completion_tokens,
            "held_seconds": _shorten(exchange.held_seconds),
            "first_byte_seconds": first_byte_seconds,
            "first_token_seconds": first_byte_seconds if exchange.events else None,
            "seconds": _shorten(exchange.ended_at - arrived_at),
            "tries": exchange.tries,
            "endpoint": exchange.candidate.endpoint.pod if exchange.candidate is not None else None,
            "cache": exchange.cache or None,
            "error": exchange.error[:_LONGEST_ERROR] or None,
            "event": "request",
            "logger": "lull.gateway",
            "level": "info",
            "timestamp": clock.utc(),
        }
    )


def _shorten(seconds: float) -> float:
    """Down to tenths of milliseconds: in a third of the time that `round` takes."""
    return int(seconds * 1e4) / 1e4
