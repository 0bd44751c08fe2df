"""Bodies exactly as vLLM 0.32 writes them: answers, stream chunks, models, errors."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

VERSION = "0.32.0"
FINGERPRINT = "vllm-0.32.0-00000000"
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
NO_STORE = (
    "This vLLM engine does not support `store=True` and therefore does not support the background mode. To enable "
    "these features, set the environment variable `VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server."
)
SHUTTING_DOWN = "cannot schedule new futures after shutdown"

Json = dict[str, Any]

_LAST_TOKEN = re.compile(r"\btok(\d{1,9})\Z")


class ApiError(Exception):
    """An error with vLLM's shape."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, kind, message, param)


def error_body(status: int, kind: str, message: str, param: str | None = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def bad_request(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, "BadRequestError", message, param)


def invalid(kind: str, location: str, message: str) -> ApiError:
    """Refuse a body as FastAPI's validation does."""
    detail = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{location}', 'msg': '{message}'}}"
    return ApiError(400, "Bad Request", detail, location)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its answers see it."""

    id: str
    created: int
    model: str
    is_chat: bool
    prompt_tokens: int
    wants_logprobs: bool
    limit: int
    """The most tokens that each choice may have."""


@dataclass(slots=True)
class Choice:
    """What has been generated for one choice."""

    index: int
    first: int = 0
    """The number of its first token: an answer to a prompt that ends with one goes on counting."""
    text: str = ""
    tokens: int = 0
    finish: str | None = None
    stop: str | None = None
    is_open: bool = False
    """Its stream has begun."""


def token_text(index: int) -> str:
    """Write the token at a place of an answer; the whole answer reads `tok0 tok1 tok2 …`."""
    return f"tok{index}" if index == 0 else f" tok{index}"


def following(prompt: str) -> int:
    """The number of the token that comes after a prompt."""
    last = _LAST_TOKEN.search(prompt)
    return int(last[1]) + 1 if last is not None else 0


def encode(text: str) -> list[int]:
    """Make one token of every four bytes, so that decoding gives the text back."""
    content = text.encode()
    return [int.from_bytes(b"\x01" + content[at : at + 4]) for at in range(0, len(content), 4)]


def decode(tokens: list[int]) -> str:
    parts = (token.to_bytes((max(token, 1).bit_length() + 7) // 8) for token in tokens)
    return b"".join(part.removeprefix(b"\x01") for part in parts).decode(errors="replace")


def usage(answer: Answer, generated: int, *, details: bool) -> Json:
    counts: Json = {
        "prompt_tokens": answer.prompt_tokens,
        "total_tokens": answer.prompt_tokens + generated,
        "completion_tokens": generated,
    }
    return {**counts, "prompt_tokens_details": None, "completion_tokens_details": None} if details else counts


def usage_so_far(answer: Answer, generated: int) -> Json:
    """Write what `stream_options.continuous_usage_stats` puts into each chunk."""
    counts = usage(answer, generated, details=False)
    return {**counts, "completion_tokens_details": None} if answer.is_chat else counts


def whole(answer: Answer, choices: list[Choice]) -> Json:
    """Write the answer of a request that does not stream."""
    generated = sum(choice.tokens for choice in choices)
    body: Json = {
        "id": answer.id,
        "object": "chat.completion" if answer.is_chat else "text_completion",
        "created": answer.created,
        "model": answer.model,
        "choices": [_whole_choice(answer, choice) for choice in choices],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage(answer, generated, details=True),
    }
    if answer.is_chat:
        body |= {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
    return {**body, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}


def opening(answer: Answer, index: int) -> Json:
    """Write a chat stream's first chunk for a choice: the role."""
    choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    return {**_chunk(answer, [choice]), "prompt_token_ids": None, "prompt_text": None}


def delta(answer: Answer, choice: Choice, text: str, *, is_last: bool) -> Json:
    """Write one token's chunk."""
    logprobs = _logprobs(answer, choice.first + choice.tokens - 1, 1, len(choice.text) - len(text))
    if answer.is_chat:
        one: Json = {"index": choice.index, "delta": {"content": text}, "logprobs": logprobs}
        one |= {"finish_reason": choice.finish}
        if choice.finish is not None:
            one["stop_reason"] = choice.stop
        one["token_ids"] = None
    else:
        one = {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish}
        one |= {"stop_reason": choice.stop, "prompt_token_ids": None, "token_ids": None}
    chunk = _chunk(answer, [one])
    return {**chunk, "system_fingerprint": FINGERPRINT} if is_last else chunk


def closing(answer: Answer, generated: int) -> Json:
    """Write the chunk with the usage that `stream_options.include_usage` asks for."""
    return {
        **_chunk(answer, []),
        "usage": usage(answer, generated, details=False),
        "system_fingerprint": FINGERPRINT,
    }


def model_card(name: str, created: int, root: str, parent: str | None, max_model_len: int | None) -> Json:
    permission = {
        "id": f"modelperm-{hashlib.sha256(name.encode()).hexdigest()[:16]}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
        "permission": [permission],
    }


def _chunk(answer: Answer, choices: list[Json]) -> Json:
    return {
        "id": answer.id,
        "object": "chat.completion.chunk" if answer.is_chat else "text_completion",
        "created": answer.created,
        "model": answer.model,
        "choices": choices,
    }


def _whole_choice(answer: Answer, choice: Choice) -> Json:
    logprobs = _logprobs(answer, choice.first, choice.tokens, 0)
    end = {"logprobs": logprobs, "finish_reason": choice.finish, "stop_reason": choice.stop, "token_ids": None}
    if not answer.is_chat:
        extra = {"prompt_logprobs": None, "prompt_token_ids": None, "routed_experts": None}
        return {"index": choice.index, "text": choice.text, **end, **extra}
    message = {
        "role": "assistant",
        "content": choice.text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    return {"index": choice.index, "message": message, **end, "routed_experts": None}


def _logprobs(answer: Answer, first: int, count: int, offset: int) -> Json | None:
    """Write log-probabilities of tokens that were never in doubt: each is certain."""
    if not answer.wants_logprobs:
        return None
    texts = [token_text(index) for index in range(first, first + count)]
    if answer.is_chat:
        entries = [{"token": text, "logprob": 0.0, "bytes": list(text.encode())} for text in texts]
        return {"content": [{**entry, "top_logprobs": [entry]} for entry in entries]}
    offsets = [offset + sum(map(len, texts[:index])) for index in range(count)]
    return {
        "text_offset": offsets,
        "token_logprobs": [0.0] * count,
        "tokens": texts,
        "top_logprobs": [{text: 0.0} for text in texts],
    }
