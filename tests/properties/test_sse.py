from __future__ import annotations

import itertools

import orjson
from hypothesis import given
from hypothesis import strategies as st

from lull.wire.sse import EventReader, events
from tests.usages import told

ENDINGS = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r"])
EVENTS = st.sampled_from(
    [
        'data: {"choices":[{"delta":{"content":"Grüße 世界"}}]}'.encode(),
        b": a comment",
        b"event: message\ndata: 1\ndata: 2",
        b"id: 7",
        b"data:",
        b'data: "error"',
    ]
)
STREAMS = st.lists(st.tuples(EVENTS, ENDINGS), min_size=1, max_size=8).map(
    lambda parts: b"".join(event + ending for event, ending in parts)
)


def cut(whole: bytes, at: list[int]) -> list[bytes]:
    points = sorted({0, len(whole), *(point % (len(whole) + 1) for point in at)})
    return [whole[start:end] for start, end in itertools.pairwise(points)]


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=12))
def test_cut_anywhere_equals_whole(whole: bytes, at: list[int]) -> None:
    reader = EventReader()

    passed = [reader.read(chunk).whole for chunk in cut(whole, at)]

    # A line feed that belongs to a carriage return in the chunk before may wait for what comes next.
    assert whole.startswith(b"".join(passed))
    assert whole[len(b"".join(passed)) :] in {b"", b"\n"}
    assert [data for passage in passed for data in events(passage)] == list(events(whole))


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=12))
def test_events_are_counted_wherever_the_cuts_are(whole: bytes, at: list[int]) -> None:
    reader = EventReader()

    counted = sum(reader.read(chunk).events for chunk in cut(whole, at))

    assert counted == len(list(events(whole)))


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([b"[DONE]", b'{"error":{"code":500}}']))
def test_the_end_is_found_wherever_the_cuts_are(whole: bytes, at: list[int], last: bytes) -> None:
    reader = EventReader()

    passages = [reader.read(chunk) for chunk in cut(whole + b"data: " + last + b"\n\n", at)]

    assert passages[-1].done is (last == b"[DONE]")
    assert (passages[-1].error is not None) is (last != b"[DONE]")
    assert not any(passage.done or passage.error for passage in passages[:-1])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_no_bytes_make_it_fail_or_are_reordered(junk: bytes, at: list[int]) -> None:
    reader = EventReader()

    passed = b"".join(reader.read(chunk).whole for chunk in cut(junk, at))

    assert junk.startswith(passed)


TEXTS = st.sampled_from(
    ["a", " robot", "世", '"usage":{"prompt_tokens":1}', '"finish_reason":"stop"', "data: [DONE]\n\n", ""]
)


def chunk(choices: list[object], **rest: object) -> bytes:
    return b"data: " + orjson.dumps({"id": "chatcmpl-1", "model": "m", "choices": choices, **rest}) + b"\n\n"


def write_stream(texts: list[tuple[int, str]], fingerprint: str | None, *, has_usage: bool) -> bytes:
    """As vLLM writes it: the fingerprint is in the chunk with the usage, else in the last one of each choice."""
    stamp = {"system_fingerprint": fingerprint} if fingerprint is not None else {}
    last = {choice: at for at, (choice, _) in enumerate(texts)}
    parts = [chunk([{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}], prompt_text=None)]
    for at, (choice, text) in enumerate(texts):
        finish = "stop" if at == last[choice] else None
        end = stamp if finish and not has_usage else {}
        parts.append(chunk([{"index": choice, "delta": {"content": text}, "finish_reason": finish}], **end))
    if has_usage:
        parts.append(chunk([], usage={"prompt_tokens": 3, "completion_tokens": len(texts)}, **stamp))
    return b"".join(parts) + b"data: [DONE]\n\n"


@given(
    st.lists(st.tuples(st.integers(0, 2), TEXTS), min_size=1, max_size=8),
    st.sampled_from([None, "vllm-0.32.0-22d1cc99"]),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_a_usage_that_nobody_asked_for_leaves_no_trace(
    texts: list[tuple[int, str]], fingerprint: str | None, is_known: bool, at: list[int]
) -> None:
    known = orjson.dumps(fingerprint) if fingerprint else b""
    reader = EventReader(strip_usage=True, fingerprint=known if is_known else None)

    passages = [reader.read(piece) for piece in cut(write_stream(texts, fingerprint, has_usage=True), at)]

    plain = write_stream(texts, fingerprint, has_usage=False)
    assert b"".join(passage.whole for passage in passages) == plain
    assert sum(passage.events for passage in passages) == len(list(events(plain)))
    assert passages[-1].done
    assert told(reader.usage) == (3, len(texts), 0)
    assert reader.fingerprint == known


@given(
    st.lists(st.tuples(st.integers(0, 2), TEXTS), min_size=1, max_size=8), st.lists(st.integers(0, 10_000), max_size=12)
)
def test_a_usage_that_was_asked_for_is_read_and_stays(texts: list[tuple[int, str]], at: list[int]) -> None:
    reader = EventReader()
    whole = write_stream(texts, "f", has_usage=True)

    passages = [reader.read(piece) for piece in cut(whole, at)]

    assert b"".join(passage.whole for passage in passages) == whole
    assert sum(passage.events for passage in passages) == len(list(events(whole)))
    assert told(reader.usage) == (3, len(texts), 0)
