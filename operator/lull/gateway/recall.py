"""The response cache at work: answers that are given again, and those that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.core.answers import MAX_RECORDINGS, Answer, find_slot, may_keep
from lull.doors import clock
from lull.gateway.continuing import is_continued
from lull.gateway.exchange import Stage
from lull.gateway.reply import JSON, STREAM

if TYPE_CHECKING:
    from lull.api.llmdeployment import Key
    from lull.gateway.exchange import Exchange, Gateway

CACHE_HEADER: Final = "x-lull-cache"

_WISH: Final = b"x-lull-cache"


def recall(gateway: Gateway, exchange: Exchange) -> None:
    """Answer from memory where the same was asked before, else see to it that the answer can be remembered."""
    if exchange.limits.is_plain:
        return
    deployment = exchange.deployment
    assert deployment is not None
    terms = gateway.answers.terms(deployment)
    if terms is None or exchange.adapter:
        return
    wish = (exchange.find_header(_WISH) or b"").strip().lower().decode("latin-1")
    if not may_keep(terms, exchange.path, exchange.call.content, wish=wish):
        return
    slot = find_slot(exchange.path, exchange.body, tenant="" if exchange.key is None else exchange.key.id)
    answer = gateway.answers.find(deployment.key, slot, now=clock.monotonic())
    if answer is None:
        _tell(gateway, exchange, deployment.key, "miss")
        if gateway.answers.recordings < MAX_RECORDINGS:
            gateway.answers.recordings += 1
            exchange.recording = bytearray()
            exchange.slot = slot
        return
    _tell(gateway, exchange, deployment.key, "hit")
    exchange.stage = Stage.STREAMING
    if answer.is_event_stream:
        exchange.reply.begin(200, STREAM, is_event_stream=True)
        exchange.reply.end(answer.body)
    else:
        exchange.reply.send(200, JSON, answer.body)


def _tell(gateway: Gateway, exchange: Exchange, key: Key, result: str) -> None:
    exchange.answer_headers.append((CACHE_HEADER, result))
    exchange.cache = result
    gateway.counts.of(key).lookups[result] += 1


def remember(gateway: Gateway, exchange: Exchange) -> None:
    """Keep an answer that came whole, from one engine, with status 200."""
    if not exchange.slot:
        return
    gateway.answers.recordings -= 1
    recording, deployment, candidate = exchange.recording, exchange.deployment, exchange.candidate
    if not recording or deployment is None or candidate is None:
        return
    if exchange.reply.status != 200 or exchange.error or exchange.client_left or is_continued(exchange):
        return
    current = gateway.directory.catalogue.deployments.get(deployment.key)
    terms = None if current is None else gateway.answers.terms(current)
    if current is None or terms is None:
        return
    answer = Answer(bytes(recording), is_event_stream=exchange.events > 0, until=clock.monotonic() + terms.ttl)
    gateway.answers.keep(current, exchange.slot, answer, revision=candidate.endpoint.revision)


def review_answers(gateway: Gateway, key: Key) -> None:
    """A model may have changed: what was kept of another revision goes, and all of it where nothing is to be kept."""
    deployment = gateway.directory.catalogue.deployments.get(key)
    if deployment is not None:
        gateway.answers.terms(deployment)
