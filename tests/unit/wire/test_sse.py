from __future__ import annotations

from lull.wire.sse import MAX_EVENT_BYTES, EventReader, StreamError, events, parse_error, render_comment, render_event

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
