"""OpenAI's HTTP API as far as a door needs it: which paths exist, which model a body names, how an error looks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PATH_MODELS: Final = "/v1/models"
INFERENCE_PATHS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Everything that is passed on to engines. Paths are compared as the bytes that were sent: no decoding, no
normalising, so no spelling of an engine's own endpoints can slip through."""

_LISTED_NAMES: Final = 20
_ASCII_ESCAPE: Final = re.compile(rb"\\u00[2-7][0-9a-fA-F]")


@dataclass(frozen=True, slots=True)
class Call:
    """What the gateway reads from a request's body; the body itself travels on as it came."""

    model: str
    stream: bool


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


def parse_call(body: bytes) -> Call:
    """Read model and stream from a body; Refusal says what is wrong with it.

    A key given twice is refused where the gateway reads it: an engine might follow the other one.
    """
    try:
        content = _parse_strictly(body) if _is_ambiguous(body) else orjson.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise Refusal(400, "The body must be a JSON object.", code="invalid_json")
    model = content.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(
            400,
            "You must provide a model: a string that names one of GET /v1/models.",
            param="model",
            code="missing_model" if model is None else "invalid_type",
        )
    stream = content.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise Refusal(400, "stream must be true or false.", param="stream", code="invalid_type")
    return Call(model, stream=stream is True)


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
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {
                    "id": model.name,
                    "object": "model",
                    "created": model.created,
                    "owned_by": "lull",
                    "root": model.root,
                    "parent": model.parent,
                }
                for model in models
            ],
        }
    )


def _is_ambiguous(body: bytes) -> bool:
    """Whether a key that matters may be there twice; escapes can spell a key in another way."""
    return body.count(b'"model"') > 1 or body.count(b'"stream"') > 1 or _ASCII_ESCAPE.search(body) is not None


def _parse_strictly(body: bytes) -> Any:  # noqa: ANN401  any JSON value
    orjson.loads(body)  # refuses NaN, broken UTF-8 and the like, which the standard library lets pass
    return json.loads(body, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:64]!r} is there twice")
    return keys
