"""OpenAI's HTTP API as far as a door needs it: which paths exist, which model a body names, how an error looks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import orjson

from lull.wire import anthropic
from lull.wire.anthropic import PATH_COUNT_TOKENS, PATH_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PATH_MODELS: Final = "/v1/models"
PATH_CHAT: Final = "/v1/chat/completions"
PATH_COMPLETIONS: Final = "/v1/completions"
PATH_RESPONSES: Final = "/v1/responses"

COMPLETION_PATHS: Final = frozenset({PATH_CHAT, PATH_COMPLETIONS})
"""Their streams end with `[DONE]`, and tell their usage only when asked to."""
STREAMING_PATHS: Final = COMPLETION_PATHS | {PATH_RESPONSES, PATH_MESSAGES}
GENERATING_PATHS: Final = STREAMING_PATHS | {PATH_COUNT_TOKENS}
POOLING_PATHS: Final = frozenset(
    {"/v1/embeddings", "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/classify"}
)
INFERENCE_PATHS: Final = GENERATING_PATHS | POOLING_PATHS | {"/tokenize", "/detokenize"}
"""Everything that is passed on to engines, by POST. Paths are compared as the bytes that were sent: no decoding, no
normalising, so no spelling of an engine's own endpoints can slip through."""

MAX_CHOICES: Final = 64
"""`n` and `best_of`: each choice is a sequence of its own to the engine."""
MAX_SEQUENCES: Final = 1024
"""Prompts of one request times the choices for each."""
MAX_ITEMS: Final = 4096
"""Messages, inputs, documents or tools of one request."""
MAX_MARKS: Final = 2_000_000
"""Commas, quotes and opening brackets of one body. Each may become an object in memory, of far more bytes than one;
text that fills the longest context has fewer."""
MAX_LOGPROBS: Final = 100
"""Alternatives per token; an engine's own bound (`--max-logprobs`, 20) is usually lower."""

_MARKS: Final = (b",", b'"', b"[", b"{")
_LISTED_NAMES: Final = 20
_ASCII_ESCAPE: Final = re.compile(rb"\\u00[2-7][0-9a-fA-F]")
_SHORT_BYTES: Final = 8192
"""In a longer body it is cheaper to look at its strings once than to search it for each key."""


class Call:
    """What the gateway reads from a request's body; the body itself travels on as it came."""

    __slots__ = (
        "content",
        "has_stream_options",
        "max_tokens",
        "model",
        "path",
        "stream",
        "wants_each_usage",
        "wants_usage",
    )

    def __init__(
        self,
        model: str,
        stream: bool,
        content: dict[str, Any],
        wants_usage: bool,
        max_tokens: int | None,
        path: str,
        has_stream_options: bool,
        wants_each_usage: bool,
    ) -> None:
        self.model = model
        self.stream = stream
        self.content = content
        """The body, parsed."""
        self.wants_usage = wants_usage
        """The client asked for the usage at the end of its stream."""
        self.max_tokens = max_tokens
        """The most tokens that it wants back, where it says so."""
        self.path = path
        self.has_stream_options = has_stream_options
        self.wants_each_usage = wants_each_usage
        """The client asked for the usage so far in every chunk, too."""

    @property
    def hides_usage(self) -> bool:
        """Its stream's usage is for the gateway only: the client did not ask for it."""
        return self.stream and not self.wants_usage and self.path in COMPLETION_PATHS


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model of `GET /v1/models`."""

    name: str
    created: int
    """Unix time."""
    root: str | None
    """Where it comes from, if that is known."""
    parent: str | None
    """The model that an adapter goes on top of."""


class Refusal(Exception):  # noqa: N818  an answer, not a fault
    """An answer in OpenAI's error shape that ends a request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def payload(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def body(self) -> bytes:
        return orjson.dumps(self.payload)

    def render(self, path: str, *, request_id: str = "") -> bytes:
        """The body of this answer, in the shape that clients of this path read."""
        if path.startswith(PATH_MESSAGES):
            return orjson.dumps(anthropic.build_error(self.status, self.message, request_id=request_id))
        return self.body

    def render_event(self, path: str, *, request_id: str = "") -> bytes:
        """The event that ends a stream whose status was 200; nothing follows it."""
        if path == PATH_MESSAGES:
            return anthropic.render_error_event(self.status, self.message, request_id=request_id)
        if path == PATH_RESPONSES:
            # Its own clients know the type; those that look for `error`, as in other streams, find that too.
            event = {"type": "error", "sequence_number": 0, "code": self.code, "message": self.message}
            return b"event: error\ndata: " + orjson.dumps({**event, "param": self.param, **self.payload}) + b"\n\n"
        return b"data: " + self.body + b"\n\n"


def parse_call(path: str, body: bytes) -> Call:
    """Read what the gateway needs from a body; Refusal says what is wrong with it.

    A key given twice is refused where the gateway reads it: an engine might follow the other one.
    """
    if len(body) > MAX_MARKS and sum(map(body.count, _MARKS)) > MAX_MARKS:
        raise Refusal(413, "The body has too many parts.", code="body_too_complex")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _not_json(error) from None
    if not isinstance(content, dict):
        raise _invalid("The body must be a JSON object.", code="invalid_json")
    _check(body, content)
    model, stream = content.get("model"), content.get("stream")
    if not isinstance(model, str) or not model:
        raise _invalid(
            "You must provide a model: a string that names one of GET /v1/models.",
            param="model",
            code="missing_model" if model is None else "invalid_type",
        )
    if stream is not None and stream is not True and stream is not False:
        raise _invalid("stream must be true or false.", param="stream")
    if path == PATH_RESPONSES:
        _check_stateless(content)
    has_options = "stream_options" in content
    return Call(
        model,
        stream is True and path in STREAMING_PATHS,
        content,
        has_options and _wants_usage(content["stream_options"]),
        _find_limit(path, content),
        path,
        has_options,
        has_options and _wants_each_usage(content["stream_options"]),
    )


def parse_model_path(path: str) -> str | None:
    """The name in `GET /v1/models/NAME`, or None where the path is another one.

    Nothing of it goes to an engine, so that clients may write the slashes of a name as they like.
    """
    prefix, slash, name = path.partition(PATH_MODELS + "/")
    return unquote(name) if slash and not prefix and name else None


def unknown_model(model: str, known: Iterable[str]) -> Refusal:
    """404 with the names that would have worked, as far as they fit."""
    names = list(known)
    listed = ", ".join(names[:_LISTED_NAMES]) + (", …" if len(names) > _LISTED_NAMES else "")
    return Refusal(
        404,
        f"The model `{model[:128]}` does not exist. " + (f"Known models: {listed}." if names else "There is none yet."),
        param="model",
        code="model_not_found",
    )


def wrong_path(call: Call, task: str) -> Refusal:
    """404, as an engine would answer, but without waking one for it."""
    return Refusal(
        404,
        f"The model `{call.model}` does not answer at {call.path}: its task is {task}.",
        param="model",
        code="unsupported_path",
    )


def unavailable(status: int, message: str, *, code: str, retry_after: float) -> Refusal:
    """An answer of overload: 429 where waiting helps a busy model, 503 where there is nothing to serve with."""
    return Refusal(
        status,
        message,
        kind="rate_limit_error" if status == 429 else "service_unavailable_error",
        code=code,
        headers={"Retry-After": str(max(1, round(retry_after)))},
    )


def render_models(models: Iterable[ModelCard]) -> bytes:
    """`GET /v1/models`."""
    return orjson.dumps({"object": "list", "data": [_build_card(model) for model in models]})


def render_model(model: ModelCard) -> bytes:
    """`GET /v1/models/NAME`."""
    return orjson.dumps(_build_card(model))


def _build_card(model: ModelCard) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "lull",
        "root": model.root,
        "parent": model.parent,
    }


def _invalid(message: str, *, param: str | None = None, code: str = "invalid_type") -> Refusal:
    return Refusal(400, message, param=param, code=code)


def _not_json(error: Exception) -> Refusal:
    return _invalid(f"The body is not valid JSON: {error}", code="invalid_json")


def _check(body: bytes, content: dict[str, Any]) -> None:
    """Refuse what is there twice, and what would cost an engine too much."""
    is_short = len(body) <= _SHORT_BYTES
    # Escapes can spell a key in another way.
    is_ambiguous = (body.find(b"\\") >= 0 and _ASCII_ESCAPE.search(body) is not None) if is_short else _has_twice(body)
    for key, value in content.items():
        read = _READ.get(key)
        if read is not None:
            quoted, check = read
            if is_short and quoted and body.count(quoted) > 1:
                is_ambiguous = True
            if check is not None and value is not None:
                check(key, value, content)
    if is_ambiguous:
        try:
            json.loads(body, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise _not_json(error) from None


def _has_twice(body: bytes) -> bool:
    """Whether a string that may be a key comes twice, or in a spelling of its own."""
    names = [
        name
        for name in body.split(b'"')
        if len(name) <= _LONGEST_SPELLING and (name in _NAMES or name.find(b"\\u00") >= 0)
    ]
    return len(names) > len(set(names)) or any(name not in _NAMES for name in names)


def _find_limit(path: str, content: dict[str, Any]) -> int | None:
    limit: int | None = content.get("max_output_tokens" if path == PATH_RESPONSES else "max_tokens")
    if path == PATH_CHAT:
        newer: int | None = content.get("max_completion_tokens")
        return limit if newer is None else newer
    return limit


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {name[:64]!r} is there twice")
            seen.add(name)
    return keys


def _check_count(key: str, value: Any, _: dict[str, Any]) -> None:  # noqa: ANN401  any JSON value
    """Counts are whole numbers; an engine would read one out of a string as well."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(f"{key} must be a whole number.", param=key)
    if value < 0:
        raise _invalid(f"{key} must not be negative.", param=key, code="integer_below_min_value")


def _check_choices(key: str, value: Any, content: dict[str, Any]) -> None:  # noqa: ANN401  any JSON value
    _check_count(key, value, content)
    if value > MAX_CHOICES:
        raise _invalid(f"{key} must be {MAX_CHOICES} at most.", param=key, code="integer_above_max_value")
    prompt = content.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) and len(prompt) * value > MAX_SEQUENCES:
        raise _invalid(
            f"Prompts times {key} must be {MAX_SEQUENCES} at most.", param=key, code="array_above_max_length"
        )


def _check_logprobs(key: str, value: Any, _: dict[str, Any]) -> None:  # noqa: ANN401  any JSON value
    if value is True or value is False:
        return
    if not isinstance(value, int):
        raise _invalid(f"{key} must be a whole number.", param=key)
    if value > MAX_LOGPROBS:
        raise _invalid(f"{key} must be {MAX_LOGPROBS} at most.", param=key, code="integer_above_max_value")


def _check_items(key: str, value: Any, _: dict[str, Any]) -> None:  # noqa: ANN401  any JSON value
    # A list of tokens is one item, and as long as the context.
    if isinstance(value, list) and len(value) > MAX_ITEMS and not isinstance(value[0], int):
        raise _invalid(f"{key} must have {MAX_ITEMS} items at most.", param=key, code="array_above_max_length")


def _check_prompts(key: str, value: Any, _: dict[str, Any]) -> None:  # noqa: ANN401  any JSON value
    if isinstance(value, list) and len(value) > MAX_SEQUENCES and not isinstance(value[0], int):
        raise _invalid(f"{key} must have {MAX_SEQUENCES} items at most.", param=key, code="array_above_max_length")


def _check_stateless(content: dict[str, Any]) -> None:
    """Responses are not kept: what one engine knows, the next one does not."""
    for key in ("background", "conversation", "previous_response_id"):
        if content.get(key):
            raise _invalid(
                f"{key} is not supported: responses are not kept. Send the whole conversation as input.",
                param=key,
                code="unsupported_parameter",
            )


def _wants_usage(options: Any) -> bool:  # noqa: ANN401  any JSON value
    if options is None:
        return False
    if not isinstance(options, dict):
        raise _invalid("stream_options must be an object.", param="stream_options")
    wanted = options.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        raise _invalid("stream_options.include_usage must be true or false.", param="stream_options")
    return wanted is True


def _wants_each_usage(options: Any) -> bool:  # noqa: ANN401  any JSON value
    return isinstance(options, dict) and bool(options.get("include_usage") and options.get("continuous_usage_stats"))


_CHECKS: Final[Mapping[str, Callable[[str, Any, dict[str, Any]], None]]] = {
    "n": _check_choices,
    "best_of": _check_choices,
    "max_completion_tokens": _check_count,
    "max_tokens": _check_count,
    "max_output_tokens": _check_count,
    "logprobs": _check_logprobs,
    "top_logprobs": _check_logprobs,
    "prompt_logprobs": _check_logprobs,
    "prompt": _check_prompts,
    **dict.fromkeys(
        ("messages", "input", "documents", "tools", "queries", "items", "text_1", "text_2", "data_1", "data_2"),
        _check_items,
    ),
}
# Of what is large, the last one counts here as it does for engines, and no time is spent on looking for another.
_ONCE: Final = frozenset(
    {
        *("model", "stream", "stream_options", "n", "best_of"),
        *("max_completion_tokens", "max_tokens", "max_output_tokens"),
    }
)
_NAMES: Final = frozenset(key.encode() for key in _ONCE)
_LONGEST_SPELLING: Final = len("\\u006d") * max(map(len, _NAMES))
_READ: Final = {
    key: (b'"%b"' % key.encode() if key in _ONCE else b"", _CHECKS.get(key)) for key in _ONCE.union(_CHECKS)
}
