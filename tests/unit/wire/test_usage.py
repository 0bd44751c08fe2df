from __future__ import annotations

import orjson
import pytest

from lull.wire.openai import parse_call
from lull.wire.usage import ask_for_usage, parse_usage, read_usage
from tests.usages import told

CHAT = "/v1/chat/completions"


def ask(body: bytes, path: str = CHAT) -> bytes:
    return ask_for_usage(parse_call(path, body), body)


def test_asks_for_the_usage_of_a_stream_and_touches_nothing_else() -> None:
    body = b' {  "model": "m", "seed":18446744073709551615,"stream": true, "x": 1.50 }'

    asked = ask(body)

    assert asked == b' {"stream_options":{"include_usage":true},' + body[2:]
    assert orjson.loads(asked) == {**orjson.loads(body), "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {}),
        (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/responses", {"stream": True}),
        ("/v1/messages", {"stream": True}),
        ("/v1/embeddings", {"stream": True}),
    ],
)
def test_asks_only_where_nobody_has(path: str, fields: dict[str, object]) -> None:
    body = orjson.dumps({"model": "m", **fields})

    assert ask(body, path) is body


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": False}, {"include_usage": None, "continuous_usage_stats": True}]
)
def test_what_the_client_said_of_its_stream_is_kept(options: dict[str, object] | None) -> None:
    asked = orjson.loads(ask(orjson.dumps({"model": "m", "stream": True, "stream_options": options})))

    assert asked["stream_options"]["include_usage"] is True
    assert asked["stream_options"]["continuous_usage_stats"] is False


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 3, "total_tokens": 8, "completion_tokens": 5}, (3, 5, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}, (3, 5, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": None}, (3, 5, 0)),
        ({"prompt_tokens": 3, "total_tokens": 3}, (3, 0, 0)),
        ({"prompt_tokens": 3, "completion_tokens": None}, (3, 0, 0)),
        ({"input_tokens": 3, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 1}}, (3, 5, 1)),
        ({"input_tokens": 3, "output_tokens": 5}, (3, 5, 0)),
        (
            {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
            (9, 5, 4),
        ),
        ({}, None),
        (None, None),
        ("many", None),
    ],
)
def test_reads_every_shape(usage: object, read: tuple[int, int, int] | None) -> None:
    assert told(parse_usage(usage)) == read
    assert told(read_usage(orjson.dumps({"id": "x", "usage": usage, "metrics": None}))) == read


def test_reads_it_wherever_it_is_and_however_it_is_written() -> None:
    spread = b'{"a": {"b": 1},\n "usage" : {\n"prompt_tokens": 3, "completion_tokens": 5}\n}'

    assert told(read_usage(spread)) == (3, 5, 0)


def test_the_end_of_a_long_answer_is_enough() -> None:
    body = orjson.dumps({"data": [0.5] * 1000, "usage": {"prompt_tokens": 3, "total_tokens": 3}})

    assert told(read_usage(body[-200:])) == (3, 0, 0)


@pytest.mark.parametrize(
    "decoy",
    [
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        ["usage"],
        {'"usage': {"prompt_tokens": 1, "completion_tokens": 1}},
        '"usage":{"prompt_tokens":1}',
    ],
)
def test_a_usage_that_a_client_had_echoed_is_not_taken_for_the_engines(decoy: object) -> None:
    usage = {"input_tokens": 3, "output_tokens": 5}

    for order in ({"x": decoy, "usage": usage, "y": 0}, {"usage": usage, "x": decoy}):
        assert told(read_usage(orjson.dumps(order))) == (3, 5, 0)


def test_no_usage_is_none() -> None:
    assert read_usage(b"") is None
    assert read_usage(b'{"usage"') is None
    assert read_usage(b'{"usage":{"prompt_tokens":1') is None
    assert read_usage(b'["usage"]') is None
    assert read_usage(b'{"tokens":[1,2],"count":2}') is None
