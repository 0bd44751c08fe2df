from __future__ import annotations

import orjson
import pytest

from lull.wire.openai import (
    INFERENCE_PATHS,
    MAX_CHOICES,
    MAX_ITEMS,
    MAX_LOGPROBS,
    MAX_SEQUENCES,
    Call,
    ModelCard,
    Refusal,
    parse_call,
    parse_model_path,
    render_model,
    render_models,
    unavailable,
    unknown_model,
)

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
LONG = b'"long": "' + b"word " * 1000 + b'"'


def parse(body: bytes, path: str = CHAT) -> Call:
    return parse_call(path, body)


def body(**fields: object) -> bytes:
    return orjson.dumps({"model": "m", **fields})


def test_reads_model_and_stream() -> None:
    call = parse(b'{"model": "m"}')

    assert (call.model, call.stream, call.content, call.wants_usage) == ("m", False, {"model": "m"}, False)
    assert (call.max_tokens, call.path) == (None, CHAT)
    assert not parse(b'{"model": "m", "stream": null}').stream
    assert parse(b'{"model": "m", "stream": true, "messages": []}').stream


@pytest.mark.parametrize(
    "given",
    [
        b'{"model": "a", "model": "b"}',
        b'{"model": "a", "\\u006dodel": "b"}',
        b'{"model": "a", "stream": true, "stream": false}',
        b'{"model": "a", "stream": true, "\\u0073tream": false}',
        b'{"model": "a", "n": 1, "n": 2}',
        b'{"model": "a", "max_tokens": 1, "max_tokens": 2}',
    ],
)
@pytest.mark.parametrize("rest", [b"", b", " + LONG])
def test_a_key_given_twice_is_refused_however_it_is_spelled(given: bytes, rest: bytes) -> None:
    with pytest.raises(Refusal, match="there twice") as refused:
        parse(given[:-1] + rest + b"}")

    assert refused.value.status == 400


@pytest.mark.parametrize("rest", [b"", b", " + LONG])
def test_the_same_word_deeper_down_is_no_second_key(rest: bytes) -> None:
    given = b'{"model": "a", "tools": [{"model": "x", "stream": {"model": 1}}], "stream": true, "u": "\\u0041"'

    call = parse(given + rest + b"}")

    assert (call.model, call.stream) == ("a", True)


def test_only_what_can_be_streamed_is_a_stream() -> None:
    streams = {path for path in INFERENCE_PATHS if parse(body(stream=True), path).stream}

    assert streams == {CHAT, COMPLETIONS, RESPONSES, MESSAGES}


@pytest.mark.parametrize(
    ("path", "fields", "limit"),
    [
        (CHAT, {}, None),
        (CHAT, {"max_tokens": 7}, 7),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 5}, 5),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": None}, 7),
        (COMPLETIONS, {"max_tokens": 7, "max_completion_tokens": 5}, 7),
        (RESPONSES, {"max_tokens": 7, "max_output_tokens": 5}, 5),
        (MESSAGES, {"max_tokens": 7}, 7),
    ],
)
def test_finds_the_limit_where_the_path_has_it(path: str, fields: dict[str, int], limit: int | None) -> None:
    assert parse(body(**fields), path).max_tokens == limit


@pytest.mark.parametrize(
    ("options", "wants"),
    [({"include_usage": True}, True), ({"include_usage": False}, False), ({}, False), (None, False)],
)
def test_knows_whether_the_client_wants_the_usage(options: object, wants: bool) -> None:
    call = parse(body(stream=True, stream_options=options))

    assert call.wants_usage is wants
    assert call.hides_usage is not wants


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_streams_that_tell_their_usage_anyway_hide_none(path: str) -> None:
    assert not parse(body(stream=True), path).hides_usage


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"n": MAX_CHOICES + 1}, "integer_above_max_value"),
        ({"best_of": MAX_CHOICES + 1}, "integer_above_max_value"),
        ({"n": "2"}, "invalid_type"),
        ({"n": True}, "invalid_type"),
        ({"n": -1}, "integer_below_min_value"),
        ({"max_tokens": "12"}, "invalid_type"),
        ({"max_tokens": 1.5}, "invalid_type"),
        ({"max_tokens": -1}, "integer_below_min_value"),
        ({"logprobs": MAX_LOGPROBS + 1}, "integer_above_max_value"),
        ({"logprobs": "5"}, "invalid_type"),
        ({"top_logprobs": MAX_LOGPROBS + 1}, "integer_above_max_value"),
        ({"prompt_logprobs": MAX_LOGPROBS + 1}, "integer_above_max_value"),
        ({"messages": [{}] * (MAX_ITEMS + 1)}, "array_above_max_length"),
        ({"input": ["a"] * (MAX_ITEMS + 1)}, "array_above_max_length"),
        ({"documents": ["a"] * (MAX_ITEMS + 1)}, "array_above_max_length"),
        ({"prompt": ["a"] * (MAX_SEQUENCES + 1)}, "array_above_max_length"),
        ({"prompt": ["a"] * (MAX_SEQUENCES // 2 + 1), "n": 2}, "array_above_max_length"),
        ({"stream_options": 1}, "invalid_type"),
        ({"stream_options": {"include_usage": "yes"}}, "invalid_type"),
    ],
)
def test_what_would_cost_an_engine_too_much_is_refused(fields: dict[str, object], code: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse(body(**fields), COMPLETIONS)

    assert (refused.value.status, refused.value.code) == (400, code)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": MAX_CHOICES, "logprobs": True, "top_logprobs": MAX_LOGPROBS},
        {"n": None, "max_tokens": None, "logprobs": None, "messages": None},
        {"messages": [{}] * MAX_ITEMS},
        {"prompt": list(range(1, 100_000)), "n": 2},
        {"input": list(range(1, 100_000))},
        {"prompt": []},
        {"background": True, "previous_response_id": "resp_1"},
    ],
)
def test_what_an_engine_can_judge_is_left_to_it(fields: dict[str, object]) -> None:
    assert parse(body(**fields), CHAT).model == "m"


@pytest.mark.parametrize(
    "fields", [{"background": True}, {"previous_response_id": "resp_1"}, {"conversation": "conv_1"}]
)
def test_a_response_that_needs_an_earlier_one_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(Refusal, match="responses are not kept") as refused:
        parse(body(input="hi", **fields), RESPONSES)

    assert refused.value.code == "unsupported_parameter"


def test_a_response_that_may_be_stored_is_not() -> None:
    given = body(input="hi", store=True, background=False, previous_response_id=None)

    assert parse(given, RESPONSES).model == "m"


@pytest.mark.parametrize(
    ("given", "code"),
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
def test_says_what_is_wrong_with_a_body(given: bytes, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse(given)

    assert (refused.value.status, refused.value.code) == (400, code)


def test_an_error_has_the_shape_of_openais() -> None:
    refusal = unknown_model("x", (f"model-{n}" for n in range(50)))

    error = orjson.loads(refusal.body)["error"]

    assert error["type"] == "invalid_request_error"
    assert error["param"] == "model"
    assert error["code"] == "model_not_found"
    assert error["message"].endswith("model-18, model-19, ….")


def test_an_error_of_messages_has_the_shape_of_anthropics() -> None:
    refusal = unavailable(429, "Slow down.", code="rate_limit_exceeded", retry_after=3)

    assert orjson.loads(refusal.render(MESSAGES, request_id="r-1")) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Slow down."},
        "request_id": "r-1",
    }
    assert orjson.loads(refusal.render(MESSAGES + "/count_tokens"))["type"] == "error"
    assert refusal.render_event(MESSAGES).startswith(b'event: error\ndata: {"type":"error"')


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_anthropics_clients_tell_errors_by_their_type(status: int, kind: str) -> None:
    assert orjson.loads(Refusal(status, "m").render(MESSAGES))["error"]["type"] == kind


def test_an_error_inside_a_stream_is_what_its_clients_look_for() -> None:
    refusal = Refusal(502, "It broke.", kind="server_error", code="engine_failed")

    assert orjson.loads(refusal.render_event(CHAT).removeprefix(b"data: ")) == refusal.payload
    name, line = refusal.render_event(RESPONSES).removesuffix(b"\n\n").split(b"\n")
    event = orjson.loads(line.removeprefix(b"data: "))
    assert name == b"event: error"
    assert (event["type"], event["code"], event["message"]) == ("error", "engine_failed", "It broke.")
    assert event["error"] == refusal.payload["error"]


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


def test_shows_one_model() -> None:
    assert orjson.loads(render_model(ModelCard("m", 7, "hf://org/m", None)))["id"] == "m"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/m", "m"),
        ("/v1/models/org/m", "org/m"),
        ("/v1/models/org%2Fm", "org/m"),
        ("/v1/models/", None),
        ("/v1/models", None),
        ("/x/v1/models/m", None),
        ("/v1/chat/completions", None),
    ],
)
def test_a_model_is_asked_for_by_its_name(path: str, name: str | None) -> None:
    assert parse_model_path(path) == name
