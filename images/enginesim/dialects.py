"""The same tokens as different APIs tell them: chat and text completions, responses, messages."""

import json
from dataclasses import dataclass
from typing import Protocol

from . import payloads
from .payloads import Answer, ApiError, Choice, Json

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "abort": "end_turn"}


@dataclass(frozen=True, slots=True)
class UsageAsked:
    """What `stream_options` ask for."""

    at_end: bool
    each: bool
    """The usage so far, in every chunk."""


class Dialect(Protocol):
    """How one API writes an answer, whole or as a stream."""

    def whole(self, answer: Answer, choices: list[Choice]) -> Json:
        """Write the answer of a request that does not stream."""
        ...

    def begin(self, answer: Answer) -> list[bytes]:
        """Write what a stream begins with, once the first token is there."""
        ...

    def grow(self, answer: Answer, choice: Choice, text: str, *, asked: UsageAsked) -> list[bytes]:
        """Write one token."""
        ...

    def end(self, answer: Answer, choices: list[Choice], *, asked: UsageAsked) -> list[bytes]:
        """Write what a stream ends with."""
        ...

    def fail(self, error: ApiError) -> list[bytes] | None:
        """Write an error inside a stream; None where the connection is cut instead."""
        ...


class Completions:
    """OpenAI's chunks, which end with `[DONE]`."""

    def whole(self, answer: Answer, choices: list[Choice]) -> Json:
        return payloads.whole(answer, choices)

    def begin(self, answer: Answer) -> list[bytes]:
        del answer
        return []

    def grow(self, answer: Answer, choice: Choice, text: str, *, asked: UsageAsked) -> list[bytes]:
        opening = answer.is_chat and not choice.is_open
        choice.is_open = True
        is_last = choice.finish is not None and not asked.at_end
        chunks = [payloads.opening(answer, choice.index)] if opening else []
        chunks.append(payloads.delta(answer, choice, text, is_last=is_last))
        if asked.each:
            for chunk, generated in zip(reversed(chunks), (choice.tokens, 0), strict=False):
                chunk["usage"] = payloads.usage_so_far(answer, generated)
        return [_data(chunk) for chunk in chunks]

    def end(self, answer: Answer, choices: list[Choice], *, asked: UsageAsked) -> list[bytes]:
        generated = sum(choice.tokens for choice in choices)
        return [*([_data(payloads.closing(answer, generated))] if asked.at_end else []), b"data: [DONE]\n\n"]

    def fail(self, error: ApiError) -> list[bytes] | None:
        return [_data(error.body), b"data: [DONE]\n\n"]


class Messages:
    """Anthropic's: one message, in blocks, and no `[DONE]`."""

    def whole(self, answer: Answer, choices: list[Choice]) -> Json:
        choice = choices[0]
        return {
            "id": answer.id,
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": choice.text}],
            "model": answer.model,
            **_stop(choice),
            "usage": _message_usage(answer, choice.tokens),
        }

    def begin(self, answer: Answer) -> list[bytes]:
        message: Json = {
            "id": answer.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": answer.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _message_usage(answer, 0),
        }
        return [
            _event("message_start", {"message": message}),
            _event("content_block_start", {"content_block": {"type": "text", "text": ""}, "index": 0}),
        ]

    def grow(self, answer: Answer, choice: Choice, text: str, *, asked: UsageAsked) -> list[bytes]:
        del answer, choice, asked
        delta = {"type": "text_delta", "text": text}
        return [_event("content_block_delta", {"delta": delta, "index": 0})] if text else []

    def end(self, answer: Answer, choices: list[Choice], *, asked: UsageAsked) -> list[bytes]:
        del asked
        delta = {"stop_sequence": None, **_stop(choices[0])}
        return [
            _event("content_block_stop", {"index": 0}),
            _event("message_delta", {"delta": delta, "usage": _message_usage(answer, choices[0].tokens)}),
            _event("message_stop", {}),
        ]

    def fail(self, error: ApiError) -> list[bytes] | None:
        # vLLM finds something else than a chunk in its own stream of completions, and says so.
        words = f"1 validation error for ChatCompletionStreamResponse: {json.dumps(error.body)}"
        return [_event("error", {"error": {"type": "internal_error", "message": words}})]


class Responses:
    """OpenAI's newer one: items with parts, events with names and numbers, and no `[DONE]`."""

    def __init__(self) -> None:
        self._number = 0

    def whole(self, answer: Answer, choices: list[Choice]) -> Json:
        return _response(answer, choices[0])

    def begin(self, answer: Answer) -> list[bytes]:
        begun = _response(answer, None)
        return [
            self._event("response.created", {"response": begun}),
            self._event("response.in_progress", {"response": begun}),
            self._event("response.output_item.added", {"item": _item(answer, None), "output_index": 0}),
            self._event("response.content_part.added", {**_place(answer), "part": {**_part(""), "logprobs": []}}),
        ]

    def grow(self, answer: Answer, choice: Choice, text: str, *, asked: UsageAsked) -> list[bytes]:
        del choice, asked
        delta = {**_place(answer), "delta": text, "logprobs": []}
        return [self._event("response.output_text.delta", delta)] if text else []

    def end(self, answer: Answer, choices: list[Choice], *, asked: UsageAsked) -> list[bytes]:
        del asked
        text, place = choices[0].text, _place(answer)
        return [
            self._event("response.output_text.done", {**place, "logprobs": [], "text": text}),
            self._event("response.content_part.done", {**place, "part": _part(text)}),
            self._event("response.output_item.done", {"item": _item(answer, text), "output_index": 0}),
            self._event("response.completed", {"response": _response(answer, choices[0])}),
        ]

    def fail(self, error: ApiError) -> list[bytes] | None:
        # What vLLM would say does not fit its own types, so its server gives up in the middle.
        del error
        return None

    def _event(self, kind: str, content: Json) -> bytes:
        self._number += 1
        return _named(kind, {**content, "sequence_number": self._number - 1, "type": kind})


def _data(content: Json) -> bytes:
    return b"data: " + _dump(content) + b"\n\n"


def _event(kind: str, content: Json) -> bytes:
    return _named(kind, {"type": kind, **content})


def _named(kind: str, content: Json) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _dump(content) + b"\n\n"


def _dump(content: Json) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _stop(choice: Choice) -> Json:
    if choice.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop}
    return {"stop_reason": STOP_REASONS[choice.finish or "stop"]}


def _message_usage(answer: Answer, generated: int) -> Json:
    return {"input_tokens": answer.prompt_tokens, "output_tokens": generated}


def _place(answer: Answer) -> Json:
    return {"content_index": 0, "item_id": f"msg_{answer.id}", "output_index": 0}


def _part(text: str) -> Json:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}


def _item(answer: Answer, text: str | None) -> Json:
    return {
        "id": f"msg_{answer.id}",
        "content": [] if text is None else [_part(text)],
        "role": "assistant",
        "status": "in_progress" if text is None else "completed",
        "type": "message",
        "phase": None,
    }


def _response(answer: Answer, choice: Choice | None) -> Json:
    """Write a response as it is at its end, or at its beginning where nothing is said yet."""
    is_cut = choice is not None and choice.finish == "length"
    ended = "incomplete" if is_cut else "completed"
    return {
        "id": answer.id,
        "created_at": answer.created,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": None,
        "metadata": None,
        "model": answer.model,
        "object": "response",
        "output": [] if choice is None else [_item(answer, choice.text)],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "none",
        "tools": [],
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": answer.limit,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": "in_progress" if choice is None else ended,
        "text": None,
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": None if choice is None else _response_usage(answer, choice.tokens),
        "user": None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }


def _response_usage(answer: Answer, generated: int) -> Json:
    per_turn: Json = {"cached_tokens": 0, "cache_write_tokens": 0}
    per_turn |= {"input_tokens_per_turn": [], "cached_tokens_per_turn": []}
    produced: Json = {"reasoning_tokens": 0, "tool_output_tokens": 0}
    produced |= {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []}
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": per_turn,
        "output_tokens": generated,
        "output_tokens_details": produced,
        "total_tokens": answer.prompt_tokens + generated,
    }
