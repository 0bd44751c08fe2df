"""Anthropic's Messages API as far as a door needs it: how an error looks, whole and inside a stream."""

from __future__ import annotations

from typing import Any, Final

import orjson

PATH_MESSAGES: Final = "/v1/messages"
PATH_COUNT_TOKENS: Final = "/v1/messages/count_tokens"

_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_CODES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 503,
    # vLLM fills its own words in.
    "BadRequestError": 400,
    "NotFoundError": 404,
    "Service Unavailable": 503,
    "ServiceUnavailableError": 503,
}


def kind_of(status: int) -> str:
    """What Anthropic calls an error of this status."""
    return _KINDS.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def code_of(kind: str) -> int:
    """The status that an error of this kind would have had, were it not inside a stream."""
    return _CODES.get(kind, 500)


def build_error(status: int, message: str, *, request_id: str = "") -> dict[str, Any]:
    """The body of an error."""
    error = {"type": "error", "error": {"type": kind_of(status), "message": message}}
    return {**error, "request_id": request_id} if request_id else error


def render_error_event(status: int, message: str, *, request_id: str = "") -> bytes:
    """The event that ends a stream which cannot go on."""
    return b"event: error\ndata: " + orjson.dumps(build_error(status, message, request_id=request_id)) + b"\n\n"
