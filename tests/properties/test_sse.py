from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lull.wire.sse import EventReader, events

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
