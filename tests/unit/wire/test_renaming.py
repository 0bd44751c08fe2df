from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.wire.renaming import rename_model

_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(), st.just("model")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(), st.just("model")), inner)
    ),
    max_leaves=12,
)


def test_leaves_every_other_byte_as_it_was() -> None:
    body = b'{ "seed": 1e0,"model" : "a\\"b",\n"messages":[{"content": "my \\"model\\": \xc3\xbc"}] }'

    assert rename_model(body, "other") == body.replace(b'"a\\"b"', b'"other"')


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"model": "x"}], "model": "a"}',
        b'{"stop": "model", "model": "a"}',
        b'{"m\\u006fdel": "a"}',
        b'{"stop": ["model"], "m\\u006fdel": "a"}',
    ],
)
def test_only_the_model_of_the_request_is_renamed(body: bytes) -> None:
    assert orjson.loads(rename_model(body, "other")) == {**orjson.loads(body), "model": "other"}


@given(st.dictionaries(st.text(), _VALUES, max_size=4), st.text(min_size=1), st.text(min_size=1), st.booleans())
def test_whatever_the_body_only_the_model_changes(
    rest: dict[str, object], before: str, after: str, is_ascii: bool
) -> None:
    content = {**rest, "model": before}

    renamed = rename_model(json.dumps(content, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass"), after)

    assert orjson.loads(renamed) == {**content, "model": after}
