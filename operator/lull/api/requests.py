"""`spec.requests`, `spec.fallback` and `spec.routes`: how the gateway treats requests. None of them restarts a pod."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Annotated

from pydantic import Field

from lull.api.base import ApiModel, Duration, Quantity, Rule, ServedName, bound_duration
from lull.api.quantities import parse_quantity


@unique
class CacheWhen(StrEnum):
    DETERMINISTIC = "Deterministic"
    ON_REQUEST = "OnRequest"


class TimeoutsSpec(ApiModel):
    rules = (
        bound_duration("first_byte", "1s", "2h", optional=True),
        bound_duration("between_chunks", "1s", "2h", optional=True),
        bound_duration("total", "1s", "24h"),
    )

    first_byte: Annotated[
        Duration | None,
        Field(
            description=(
                "Longest wait for the first byte of an engine's answer; then the client gets 504. Between 1s and 2h. "
                "Default: the gateway's own, 10m where the chart says no other. Immediate."
            )
        ),
    ] = None
    between_chunks: Annotated[
        Duration | None,
        Field(
            description=(
                "Longest silence within an answer that has begun; then the engine counts as broken: the stream ends "
                "with an error event, or is continued. Between 1s and 2h. Default: the gateway's own, 5m where the "
                "chart says no other. Immediate."
            )
        ),
    ] = None
    total: Annotated[
        Duration,
        Field(
            description=(
                "Longest time from the gateway's letting a request go to the end of its answer, all tries together; "
                "then the client gets 504, or its stream an error event. The time that it is held is bounded by "
                "queue.holdFor instead. Between 1s and 24h. Immediate."
            )
        ),
    ] = "1h"


class ResponseCacheSpec(ApiModel):
    rules = (
        bound_duration("ttl", "1s", "24h"),
        Rule(
            "!quantity(self.maxBytes).isLessThan(quantity('64Ki')) "
            "&& !quantity(self.maxBytes).isGreaterThan(quantity('1Gi'))",
            lambda cache: 2**16 <= parse_quantity(cache.max_bytes) <= 2**30,
            "maxBytes must be between 64Ki and 1Gi",
        ),
    )

    ttl: Annotated[Duration, Field(description="How long an answer may be given again: 1s to 24h. Immediate.")] = "10m"
    max_bytes: Annotated[
        Quantity,
        Field(
            description=(
                "Memory for this model's answers in each gateway process, 64Ki to 1Gi; the one that was used longest "
                "ago goes first. Immediate."
            )
        ),
    ] = "16Mi"
    when: Annotated[
        CacheWhen,
        Field(
            description=(
                "Deterministic: requests with temperature 0 and one choice, what embeds, ranks and scores, and those "
                "that ask with the header x-lull-cache: use. OnRequest: the last only. Immediate."
            )
        ),
    ] = CacheWhen.DETERMINISTIC


class RequestsSpec(ApiModel):
    timeouts: Annotated[TimeoutsSpec, Field(description="How long an answer may take.")] = TimeoutsSpec()
    continue_streams: Annotated[
        bool,
        Field(
            description=(
                "Whether a stream whose engine dies after its first byte goes on at another engine, from the text sent "
                "so far. Not with tools, structured outputs, logprobs, several choices or reasoning: those end with an "
                "error event. Immediate."
            )
        ),
    ] = False
    cache: Annotated[
        ResponseCacheSpec | None,
        Field(
            description=(
                "Answers kept in the gateway for requests that come again, byte for byte, with the same API key. "
                "Default: none. Immediate."
            )
        ),
    ] = None


class RouteSpec(ApiModel):
    model: Annotated[
        ServedName,
        Field(description="A name of GET /v1/models, of another LLMDeployment. Immediate."),
    ]
    max_prompt_tokens: Annotated[
        int,
        Field(
            ge=1,
            le=10_000_000,
            description="Longest prompt, in tokens as the gateway estimates them, that goes there first. Immediate.",
        ),
    ]
