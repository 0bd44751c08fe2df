from __future__ import annotations

import orjson
import pytest

from lull.wire.sse import MAX_EVENT_BYTES, EventReader, StreamError, events, parse_error, render_comment, render_event
from tests.usages import told

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
ERROR = b'data: {"error":{"message":"busy","type":"x","param":null,"code":503}}\n\n'


def test_half_an_event_waits_for_the_other_half() -> None:
    reader = EventReader()

    first = reader.read(b'data: {"a":1}\n\ndata: {"b"')
    second = reader.read(b":2}\n\n")

    assert first.whole == b'data: {"a":1}\n\n'
    assert second.whole == b'data: {"b":2}\n\n'


def test_comments_are_not_the_beginning_of_an_answer() -> None:
    reader = EventReader()

    assert not reader.read(b": keep-alive data\n\n").begun
    assert reader.read(b'data: {"a":1}\n\n').begun


def test_an_error_is_found_and_nothing_after_it_is_passed_on() -> None:
    passage = EventReader().read(ERROR + b"data: [DONE]\n\n")

    assert passage.error == StreamError(503, "busy")
    assert passage.whole == ERROR
    assert not passage.begun
    assert not passage.done


def test_an_error_after_events_leaves_them_in_place() -> None:
    event = b'data: {"choices":[]}\n\n'

    passage = EventReader().read(event + ERROR)

    assert passage.whole == event + ERROR
    assert passage.begun


def test_what_a_model_writes_about_errors_is_no_error() -> None:
    event = render_event({"choices": [{"delta": {"content": '{"error": {"code": 500}} data: [DONE]\n\n'}}]})

    passage = EventReader().read(event)

    assert (passage.whole, passage.error, passage.done) == (event, None, False)


def test_a_null_error_is_none() -> None:
    assert parse_error(b'{"error": null, "choices": []}') is None
    assert parse_error(b"[1") is None
    assert parse_error(b'{"error": "Unauthorized"}') == StreamError(500, "Unauthorized")


def test_the_end_is_seen() -> None:
    assert EventReader().read(b"data: [DONE]\n\n").done
    assert EventReader().read(b"data:[DONE]\r\n\r\n").done


def test_an_event_that_is_too_long_is_passed_on_in_pieces() -> None:
    reader = EventReader()
    piece = b"data: " + b"x" * MAX_EVENT_BYTES

    assert reader.read(piece).whole == piece
    assert reader.torn
    assert reader.read(b"x\n\n").whole == b"x\n\n"
    assert not reader.torn


def test_our_own_lines_are_well_formed() -> None:
    assert list(events(render_comment("waiting") + render_event({"a": "ü"}))) == ['{"a":"ü"}'.encode()]


def chunk(text: str = "a", finish: str | None = None, **rest: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return render_event({"id": "c", "choices": [choice], **rest})


def named(kind: str, **content: object) -> bytes:
    return b"event: " + kind.encode() + b"\n" + render_event({"type": kind, **content})


USAGE = render_event({"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
STAMPED = render_event(
    {"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, "system_fingerprint": "f"}
)
DONE = b"data: [DONE]\n\n"


def test_plain_events_are_counted_and_passed_on_as_they_came() -> None:
    reader = EventReader()

    passages = [reader.read(chunk(f"word {n}") * n) for n in range(1, 6)]

    assert [passage.events for passage in passages] == [1, 2, 3, 4, 5]
    assert [passage.whole for passage in passages] == [chunk(f"word {n}") * n for n in range(1, 6)]
    assert all(passage.begun for passage in passages)


@pytest.mark.parametrize("strip", [False, True])
def test_what_is_not_plain_is_found_among_what_is(strip: bool) -> None:
    reader = EventReader(strip_usage=strip, fingerprint=b"")
    plain = chunk("a") * 3
    reader.read(plain)

    passage = reader.read(plain + chunk("b", "stop") + USAGE + DONE)

    assert passage.whole == plain + chunk("b", "stop") + (b"" if strip else USAGE) + DONE
    assert passage.done
    assert passage.events == (5 if strip else 6)
    assert told(reader.usage) == (3, 2, 0)


def test_an_error_after_plain_events_is_found() -> None:
    reader = EventReader()
    reader.read(chunk() * 2)

    passage = reader.read(chunk() * 2 + ERROR + DONE)

    assert passage.whole == chunk() * 2 + ERROR
    assert (passage.error, passage.begun, passage.events) == (StreamError(503, "busy"), True, 2)


def test_an_event_that_trickles_in_is_passed_on_once_and_whole() -> None:
    reader = EventReader()
    event = chunk("word " * 20_000)

    passed = [reader.read(event[at : at + 1]).whole for at in range(len(event))]

    assert passed[-1] == event
    assert not any(passed[:-1])


def test_the_end_of_a_choice_waits_for_the_fingerprint_once() -> None:
    first = EventReader(strip_usage=True)

    waiting = first.read(chunk("b", "stop"))
    released = first.read(STAMPED)
    later = EventReader(strip_usage=True, fingerprint=first.fingerprint).read(chunk("b", "stop"))

    assert (waiting.whole, waiting.done) == (b"", False)
    assert released.whole == chunk("b", "stop", system_fingerprint="f") == later.whole


def test_a_reader_that_strips_nothing_keeps_what_it_was_told() -> None:
    assert EventReader(fingerprint=b'"f"').fingerprint == b'"f"'


def test_what_waits_is_let_go_by_an_error_and_by_the_end() -> None:
    by_error = EventReader(strip_usage=True)
    by_error.read(chunk("b", "stop"))
    by_end = EventReader(strip_usage=True)
    by_end.read(chunk("b", "stop"))

    assert by_error.read(ERROR).whole == chunk("b", "stop") + ERROR
    assert by_end.read(DONE).whole == chunk("b", "stop") + DONE


def test_what_waits_has_a_bound() -> None:
    reader = EventReader(strip_usage=True)
    long = chunk("x" * (MAX_EVENT_BYTES // 2))

    waiting = [reader.read(each).whole for each in (chunk("b", "stop"), long, long)]

    assert waiting == [b"", b"", chunk("b", "stop") + long + long]


def test_an_engine_that_always_tells_the_usage_is_let_alone() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    stream = chunk("a", usage=usage) + chunk("b", "stop", usage=usage) + STAMPED + DONE
    reader = EventReader(strip_usage=True)

    assert reader.read(stream).whole == stream
    assert told(reader.usage) == (3, 2, 0)


def test_a_response_ends_with_an_event_of_its_own() -> None:
    usage = {"input_tokens": 3, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 1}}
    reader = EventReader(RESPONSES)

    begun = reader.read(named("response.created", response={"usage": None, "status": "in_progress"}))
    words = reader.read(named("response.output_text.delta", delta='"response" "error"') * 3)
    ended = reader.read(named("response.completed", response={"usage": usage, "error": None}))

    assert (begun.done, words.done, ended.done) == (False, False, True)
    assert (begun.events, words.events, ended.events) == (1, 3, 1)
    assert told(reader.usage) == (3, 5, 1)


def test_a_response_that_is_cut_short_by_its_limit_is_done() -> None:
    assert EventReader(RESPONSES).read(named("response.incomplete", response={"usage": None})).done


def test_a_response_that_failed_is_an_error() -> None:
    failed = named("response.failed", response={"error": {"code": "server_error", "message": "It broke."}})

    assert EventReader(RESPONSES).read(failed).error == StreamError(500, "It broke.")


def test_an_error_event_of_responses_is_one() -> None:
    passage = EventReader(RESPONSES).read(named("error", code="server_error", message="It broke.", sequence_number=3))

    assert passage.error == StreamError(500, "It broke.")


def test_a_message_tells_its_usage_at_its_start_and_at_its_end() -> None:
    reader = EventReader(MESSAGES)

    reader.read(named("message_start", message={"usage": {"input_tokens": 7, "output_tokens": 0}}))
    words = reader.read(named("content_block_delta", delta={"type": "text_delta", "text": "a"}) * 2)
    reader.read(named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}))
    ended = reader.read(named("message_stop"))

    assert (words.events, words.done, ended.done) == (2, False, True)
    assert told(reader.usage) == (7, 4, 0)


@pytest.mark.parametrize(
    ("kind", "code"), [("overloaded_error", 503), ("rate_limit_error", 429), ("internal_error", 500)]
)
def test_an_error_inside_a_message_has_the_code_of_its_type(kind: str, code: int) -> None:
    passage = EventReader(MESSAGES).read(named("error", error={"type": kind, "message": "It broke."}))

    assert passage.error == StreamError(code, "It broke.")
    assert not passage.begun


def test_completions_of_other_engines_are_read_as_well() -> None:
    spaced = [
        b'data: {"choices": [{"finish_reason": null}]}\n\n',
        b'data: {"choices": [{"finish_reason": "stop"}]}\n\n',
    ]
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n'
    reader = EventReader(strip_usage=True)

    passed = [reader.read(each).whole for each in (*spaced, usage, DONE)]

    assert passed == [*spaced, b"", DONE]
    assert told(reader.usage) == (1, 2, 0)


def test_an_error_of_a_whole_answer_is_read_in_either_shape() -> None:
    anthropics = {"type": "error", "error": {"type": "Service Unavailable", "message": "busy"}}

    assert parse_error(orjson.dumps(anthropics)) == StreamError(503, "busy")
    assert parse_error(ERROR.removeprefix(b"data: ")) == StreamError(503, "busy")
