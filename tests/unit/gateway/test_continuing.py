from __future__ import annotations

import orjson
import pytest

from lull.gateway.continuing import MAX_CONTINUED, Listener

PATH = "/v1/completions"
BODY = b'{"prompt":"a","stream":true,"max_tokens":9000}'


def says(text: str) -> bytes:
    return orjson.dumps({"id": "one", "choices": [{"index": 0, "text": text}]})


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\n: waiting\n\n", b"\nid: 7\n\n"])
@pytest.mark.parametrize("start", [b"data: ", b"data:", b"event: completion\ndata: "])
def test_hears_every_spelling_of_an_event(start: bytes, end: bytes) -> None:
    listener = Listener(PATH, BODY)

    runs = [listener(start + says(text) + end) for text in ("b", "c", "d")]
    body = listener.continue_()

    assert runs == [start + says(text) + end for text in ("b", "c", "d")]
    assert body is not None
    assert orjson.loads(body) == {"prompt": "abcd", "stream": True, "max_tokens": 8997}


def test_keeps_the_text_of_long_answers_and_not_their_events() -> None:
    listener = Listener(PATH, BODY)

    for _ in range(1000):
        listener(b"data: " + says("b") + b"\n\n")
    body = listener.continue_()

    assert body is not None
    assert orjson.loads(body) == {"prompt": "a" + "b" * 1000, "stream": True, "max_tokens": 8000}


def test_half_an_event_is_not_continued() -> None:
    listener = Listener(PATH, BODY)
    listener(b"data: " + says("b") + b"\n\n")

    listener(b'data: {"id": "o\n\n')

    assert listener.continue_() is None


EACH = (
    b',"usage":{"prompt_tokens":3,"total_tokens":8,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1}}'
)


@pytest.mark.parametrize("rest", [b"", b',"system_fingerprint":"vllm"'])
def test_the_usage_in_each_event_is_not_for_the_client(rest: bytes) -> None:
    plain = b"data: " + says('b,"usage":{"c":1}')[:-1] + rest + b"}\n\n"
    asked = b"data: " + says('b,"usage":{"c":1}')[:-1] + EACH + rest + b"}\n\n"
    whole = b'data: {"id":"one","choices":[]' + EACH + b"}\n\ndata: [DONE]\n\n"
    listener = Listener(PATH, BODY)

    assert listener(asked + asked + whole) == plain + plain + whole


def test_a_client_that_asks_for_the_usage_in_each_event_gets_it() -> None:
    run = b"data: " + says("b")[:-1] + EACH + b"}\n\n"

    assert Listener(PATH, BODY, hides_each=False)(run) == run


def test_a_stream_goes_on_a_few_times_only() -> None:
    listener = Listener(PATH, BODY)
    listener(b"data: " + says("b") + b"\n\n")

    assert [listener.continue_() is not None for _ in range(MAX_CONTINUED + 1)] == [*[True] * MAX_CONTINUED, False]
