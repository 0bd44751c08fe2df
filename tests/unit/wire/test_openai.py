from __future__ import annotations

import orjson
import pytest

from lull.wire.openai import Call, ModelCard, Refusal, parse_call, render_models, unavailable, unknown_model

CHAT = "/v1/chat/completions"


def parse(body: bytes) -> Call:
    return parse_call(CHAT, body)


def test_reads_model_and_stream() -> None:
    assert parse(b'{"model": "m"}') == Call("m", False, {"model": "m"}, False, None, CHAT)
    assert not parse(b'{"model": "m", "stream": null}').stream
    assert parse(b'{"model": "m", "stream": true, "messages": []}').stream


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "a", "model": "b"}',
        b'{"model": "a", "\\u006dodel": "b"}',
        b'{"model": "a", "stream": true, "stream": false}',
        b'{"model": "a", "stream": true, "\\u0073tream": false}',
    ],
)
def test_a_key_given_twice_is_refused_however_it_is_spelled(body: bytes) -> None:
    with pytest.raises(Refusal, match="there twice") as refused:
        parse(body)

    assert refused.value.status == 400


def test_the_same_word_deeper_down_is_no_second_key() -> None:
    body = b'{"model": "a", "tools": [{"model": "x", "stream": {"model": 1}}], "stream": true, "u": "\\u0041"}'

    call = parse(body)

    assert (call.model, call.stream) == ("a", True)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"nonsense", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b'{"model": "m", "n": Infinity}', "invalid_json"),
        (b'\xef\xbb\xbf{"model": "m"}', "invalid_json"),
        (b'{"model": "\xc3("}', "invalid_json"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "invalid_json"),
        (b"{}", "missing_model"),
        (b'{"model": null}', "missing_model"),
        (b'{"model": ["m"]}', "invalid_type"),
        (b'{"model": ""}', "invalid_type"),
        (b'{"model": "m", "stream": 1}', "invalid_type"),
    ],
)
def test_says_what_is_wrong_with_a_body(body: bytes, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse(body)

    assert (refused.value.status, refused.value.code) == (400, code)


def test_an_error_has_the_shape_of_openais() -> None:
    refusal = unknown_model("x", (f"model-{n}" for n in range(50)))

    error = orjson.loads(refusal.body)["error"]

    assert error["type"] == "invalid_request_error"
    assert error["param"] == "model"
    assert error["code"] == "model_not_found"
    assert error["message"].endswith("model-18, model-19, ….")


def test_a_long_name_is_not_echoed_whole() -> None:
    assert len(unknown_model("x" * 10_000, ()).message) < 300


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    assert unavailable(503, "m", code="c", retry_after=0.2).headers == {"Retry-After": "1"}


def test_lists_models() -> None:
    shown = render_models([ModelCard("m", 7, "hf://org/m", None), ModelCard("a", 7, "s3://bucket/a", "m")])

    common = {"object": "model", "created": 7, "owned_by": "lull"}
    assert orjson.loads(shown) == {
        "object": "list",
        "data": [
            {"id": "m", **common, "root": "hf://org/m", "parent": None},
            {"id": "a", **common, "root": "s3://bucket/a", "parent": "m"},
        ],
    }
