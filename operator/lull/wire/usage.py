"""How many tokens a request took, in the engine's own words: asked for, found, and read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from lull.wire.openai import Call

_ASKED: Final = b'"stream_options":{"include_usage":true},'
_ASKED_EACH: Final = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true},'
_KEY: Final = b'"usage"'
_SHORT_BYTES: Final = 2048
"""So much JSON is parsed sooner than the usage is found in it."""
_MOST_BRACES: Final = 8
"""A usage has two or three objects inside; no more closing braces than this are tried for its end."""


class Usage:
    """Tokens of one request."""

    __slots__ = ("cached_tokens", "completion_tokens", "prompt_tokens")

    def __init__(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.cached_tokens = cached_tokens
        """Of the prompt's, those that the engine had already."""


def ask_for_usage(call: Call, body: bytes, *, each: bool = False) -> bytes:
    """The body to send, so that a stream ends with its usage, which `EventReader` then takes out again.

    `each`: so that every chunk tells the usage so far. Whoever asks for that takes it out of the chunks.
    """
    if call.wants_each_usage or not (call.hides_usage or each):
        return body
    if not call.has_stream_options:
        at = body.index(b"{") + 1
        return body[:at] + (_ASKED_EACH if each else _ASKED) + body[at:]
    content = orjson.loads(body)
    # Without include_usage an engine ignores continuous_usage_stats; with it, every chunk would have a usage.
    content["stream_options"] = {
        **(content["stream_options"] or {}),
        "include_usage": True,
        "continuous_usage_stats": each,
    }
    return orjson.dumps(content)


def read_usage(body: bytes) -> Usage | None:
    """The usage of a whole JSON answer, or None where it has none.

    The last part of an answer is enough, if the usage is in it.
    """
    at = body.rfind(_KEY)
    if at < 0:
        return None
    if len(body) <= _SHORT_BYTES and (usage := _read_whole(body)) is not None:
        return usage
    # A client may have had this word echoed in a schema or in metadata; then only a full parse tells which is which.
    usage = None if body.find(_KEY, 0, at) >= 0 or body.endswith(b"\\", 0, at) else _read_at(body, at + len(_KEY))
    return _read_whole(body) if usage is None else usage


def _read_whole(body: bytes) -> Usage | None:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return parse_usage(content.get("usage")) if isinstance(content, dict) else None


def parse_usage(usage: Any) -> Usage | None:  # noqa: ANN401  any JSON value
    """A usage in any of its shapes: OpenAI's, that of responses, or Anthropic's."""
    if not isinstance(usage, dict):
        return None
    prompt = usage.get("prompt_tokens")
    if prompt is not None:
        completion, details = usage.get("completion_tokens"), usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else 0
        return Usage(_count(prompt), _count(completion), _count(cached))
    prompt = usage.get("input_tokens")
    if prompt is None and usage.get("output_tokens") is None:
        return None
    details = usage.get("input_tokens_details")
    if isinstance(details, dict):
        return Usage(_count(prompt), _count(usage.get("output_tokens")), _count(details.get("cached_tokens")))
    # Anthropic counts what it had and what it kept apart from the rest of the prompt.
    cached, kept = _count(usage.get("cache_read_input_tokens")), _count(usage.get("cache_creation_input_tokens"))
    return Usage(_count(prompt) + cached + kept, _count(usage.get("output_tokens")), cached)


def _read_at(body: bytes, at: int) -> Usage | None:
    """The usage whose key ends here; None where this is no key, or its value none."""
    start = body.find(b"{", at, at + 8)
    if start < 0 or body[at:start].strip(b" \n\r\t") != b":":
        return None
    end = start
    for _ in range(_MOST_BRACES):
        end = body.find(b"}", end) + 1
        if end == 0:
            return None
        if body.count(b"{", start, end) == body.count(b"}", start, end):
            break
    try:
        return parse_usage(orjson.loads(body[start:end]))
    except orjson.JSONDecodeError:
        return None


def _count(tokens: Any) -> int:  # noqa: ANN401  any JSON value
    return tokens if isinstance(tokens, int) and tokens > 0 else 0
