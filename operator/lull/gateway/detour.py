"""Requests that another model answers: by the length of their prompt, or because theirs cannot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from lull.core.affinity import measure_work
from lull.core.fallback import Asked, State, choose, choose_next
from lull.gateway.continuing import listen
from lull.gateway.exchange import Stage
from lull.wire.openai import parse_call
from lull.wire.renaming import rename_model

if TYPE_CHECKING:
    from lull.api.llmdeployment import Key, LLMDeployment
    from lull.core.fallback import StandIn
    from lull.gateway.exchange import Exchange, Gateway

SERVED_HEADER: Final = "x-lull-model"

_CAUSES: Final = frozenset({"queue_full", "saturated", "cold_start_timeout", "engine_failed"})
"""Codes of those refusals that another model may make good."""


def detour(gateway: Gateway, exchange: Exchange) -> None:
    """Choose the model that answers, where the one that was asked for names others."""
    if exchange.limits.is_plain:
        # Nobody looks at its parts again, and what comes next finds their memory warm.
        exchange.call.content.clear()
        return
    deployment = exchange.deployment
    assert deployment is not None
    spec = deployment.spec
    if (spec.routes or spec.fallback) and not exchange.adapter:
        catalogue = gateway.directory.catalogue
        found = choose(_describe(exchange, deployment), catalogue, _look(gateway))
        for key in found.missed:
            gateway.lines.note(key)
        if found.stand_in is not None:
            cause = "cold" if deployment.key in found.missed else "prompt_length"
            gateway.counts.of(deployment.key).fallbacks[cause] += 1
            _switch(exchange, found.stand_in, gateway)
    listen(exchange)


def turn(gateway: Gateway, exchange: Exchange, cause: str) -> bool:
    """Give a request to the next model that may have it, rather than refuse it; False where there is none."""
    if cause not in _CAUSES or exchange.begun_at is not None or exchange.deployment is None:
        return False
    catalogue = gateway.directory.catalogue
    asked = catalogue.find(exchange.call.model)
    if asked is None or exchange.call.model in catalogue.adapters:
        return False
    stand_in = choose_next(_describe(exchange, asked), catalogue, _look(gateway), failed=exchange.deployment.key)
    if stand_in is None:
        return False
    gateway.counts.of(asked.key).fallbacks[cause] += 1
    if exchange.ticket is not None:
        gateway.lines.leave(exchange.ticket)
    exchange.ticket = None
    exchange.candidate = None
    exchange.stage = Stage.RECEIVING
    exchange.tried.clear()
    exchange.broken = 0
    exchange.total_due = math.inf
    exchange.error = ""
    if not exchange.call.content:
        # It was let go of: there was no other model when the request came.
        exchange.call = parse_call(exchange.path, exchange.body)
    _switch(exchange, stand_in, gateway)
    listen(exchange)
    return True


def _describe(exchange: Exchange, asked: LLMDeployment) -> Asked:
    key = exchange.key
    return Asked(
        exchange.call.model,
        asked,
        exchange.work.prompt_tokens,
        allows=_allows_all if key is None else key.allows,
    )


def _allows_all(_: str) -> bool:
    return True


def _look(gateway: Gateway) -> State:
    return State(
        is_cold=lambda key: _is_cold(gateway, key),
        has_room=gateway.lines.has_room,
    )


def _is_cold(gateway: Gateway, key: Key) -> bool:
    return not any(candidate.endpoint.ready for candidate in gateway.directory.candidates(key))


def _switch(exchange: Exchange, stand_in: StandIn, gateway: Gateway) -> None:
    """From here on the request is one for that model."""
    wish = exchange.hold_seconds
    is_own_wish = wish < exchange.limits.hold_seconds
    exchange.deployment = stand_in.deployment
    exchange.limits = gateway.directory.limits(stand_in.deployment)
    exchange.hold_seconds = min(wish, exchange.limits.hold_seconds) if is_own_wish else exchange.limits.hold_seconds
    exchange.body = rename_model(exchange.body, stand_in.name)
    if exchange.adapter != stand_in.adapter:
        exchange.adapter = stand_in.adapter
        exchange.work = measure_work(exchange.call, size=exchange.size, adapter=stand_in.adapter)
    # What is kept of one model's answers is not another's.
    exchange.recording = None
    exchange.cache = ""
    exchange.answer_headers[:] = [
        header for header in exchange.answer_headers if header[0] not in {SERVED_HEADER, "x-lull-cache"}
    ]
    exchange.served = "" if stand_in.name == exchange.call.model else stand_in.name
    if exchange.served:
        exchange.answer_headers.append((SERVED_HEADER, stand_in.name))
