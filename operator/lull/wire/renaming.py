"""A request's body for an engine that knows the model by another name."""

from __future__ import annotations

import re
from typing import Final

import orjson

_KEY: Final = b'"model"'
_MODEL: Final = re.compile(rb'("model"[ \n\r\t]*:[ \n\r\t]*)"(?:[^"\\]|\\.)*"')
_UNICODE_ESCAPE: Final = b"\\u"


def rename_model(body: bytes, name: str) -> bytes:
    """The same body, which is a JSON object with a model, with another one.

    Its other bytes stay as they are, unless it takes a parser to tell which key is the model's.
    """
    if body.count(_KEY) == 1 and _UNICODE_ESCAPE not in body:
        # Inside a string the quotes would be escaped, so this is the one key, or a whole string that no colon follows.
        match = _MODEL.match(body, body.index(_KEY))
        if match is not None:
            return b"%b%b%b%b" % (body[: match.start()], match[1], orjson.dumps(name), body[match.end() :])
    return orjson.dumps({**orjson.loads(body), "model": name})
