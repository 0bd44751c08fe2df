"""What of a request goes into its spans, by OpenTelemetry's conventions for HTTP and for generative AI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.doors import clock

if TYPE_CHECKING:
    from lull.doors.tracing import Trace, Tracer
    from lull.gateway.exchange import Exchange

Attributes = dict[str, str | bool | int | float]

_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""Those for which there is a convention; others go by the last part of their path."""


def begin_try(tracer: Tracer, exchange: Exchange, *, now: float) -> None:
    """An engine is about to be asked: it gets the context of this try instead of the client's."""
    trace = exchange.trace = exchange.trace or _begin(tracer, exchange)
    _tell_hold(trace, exchange, until=now)
    exchange.headers = trace.begin_try(f"{_operation(exchange)} {exchange.call.model}", exchange.headers, at=now)


def fail_try(exchange: Exchange, failure: str) -> None:
    """The try came to nothing, and another may follow."""
    if exchange.trace is not None and exchange.trace.is_sampled:
        exchange.trace.end_try(_describe_try(exchange), at=clock.monotonic(), error=failure)


def end(tracer: Tracer, exchange: Exchange, code: int) -> str:
    """The request is over; its trace, for the log."""
    trace = exchange.trace or _begin(tracer, exchange)
    now = exchange.ended_at
    if not trace.is_sampled:
        return trace.trace_id
    failed = exchange.reason or ("client_left" if exchange.client_left else str(code) if code >= 500 else "")
    trace.end_try(_describe_try(exchange) | _describe_usage(exchange), at=now, error=failed)
    _tell_hold(trace, exchange, until=now)
    if exchange.begun_at is not None and exchange.events:
        trace.tell("first_token", at=exchange.begun_at)
    trace.end(_describe(exchange, code), at=now, error=failed if code >= 500 else "")
    return trace.trace_id


def _begin(tracer: Tracer, exchange: Exchange) -> Trace:
    route = exchange.path if exchange.deployment is not None else ""
    return tracer.begin(f"{exchange.method or 'HTTP'} {route}".rstrip(), exchange.headers, at=exchange.arrived_at)


def _tell_hold(trace: Trace, exchange: Exchange, *, until: float) -> None:
    """It was held, from when to when; after a failed try it may be held once more."""
    seconds = exchange.held_seconds - trace.held_seconds
    if seconds > 0:
        trace.held_seconds = exchange.held_seconds
        trace.tell("held", at=until - seconds)
        if not exchange.is_over:
            trace.tell("granted", at=until)


def _operation(exchange: Exchange) -> str:
    return _OPERATIONS.get(exchange.path) or exchange.path.rpartition("/")[2]


def _describe_try(exchange: Exchange) -> Attributes:
    if exchange.candidate is None:
        return {}
    endpoint = exchange.candidate.endpoint
    return {
        "gen_ai.operation.name": _operation(exchange),
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": exchange.call.model,
        "gen_ai.request.stream": exchange.call.stream,
        "server.address": endpoint.host,
        "server.port": endpoint.port,
        "k8s.pod.name": endpoint.pod,
        "lull.try": exchange.tries,
    }


def _describe_usage(exchange: Exchange) -> Attributes:
    attributes: Attributes = {}
    if exchange.usage is not None:
        attributes["gen_ai.usage.input_tokens"] = exchange.usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = exchange.usage.completion_tokens
        attributes["gen_ai.usage.cache_read.input_tokens"] = exchange.usage.cached_tokens
    if exchange.begun_at is not None and exchange.events:
        attributes["gen_ai.response.time_to_first_chunk"] = exchange.begun_at - exchange.arrived_at
    return attributes


def _describe(exchange: Exchange, code: int) -> Attributes:
    attributes: Attributes = {
        "http.request.method": exchange.method or "_OTHER",
        "http.response.status_code": code,
        "url.path": exchange.path,
        "url.scheme": "http",
        "http.request.body.size": exchange.size,
        "lull.request_id": exchange.request_id,
        "lull.stage": exchange.stage.value,
        "lull.held_seconds": exchange.held_seconds,
        "lull.tries": exchange.tries,
    }
    if exchange.deployment is not None:
        key = exchange.deployment.key
        attributes |= {
            "http.route": exchange.path,
            "k8s.namespace.name": key.namespace,
            "lull.deployment": key.name,
            "gen_ai.operation.name": _operation(exchange),
            "gen_ai.request.model": exchange.call.model,
            "gen_ai.request.stream": exchange.call.stream,
            "gen_ai.response.model": exchange.served or exchange.call.model,
            **_describe_usage(exchange),
        }
    if exchange.key is not None:
        attributes["lull.key"] = exchange.key.id
    if exchange.cache:
        attributes["lull.cache"] = exchange.cache
    return attributes
