from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lull.fetcher import download
from lull.fetcher.download import Marker
from lull.fetcher.snapshot import Checksum, RemoteFile


def test_a_marker_survives_being_written() -> None:
    files = (RemoteFile("a", 1, Checksum("git", "b" * 40)), RemoteFile("c/d", 2))
    marker = Marker("hf://org/name", "c" * 40, files)

    assert download.parse_marker(download.render_marker(marker)) == marker


@pytest.mark.parametrize("answer", [{}, [], None, {"source": "hf://a/b", "version": "c", "files": [{}]}])
def test_a_strange_marker_counts_as_none(answer: dict[str, object]) -> None:
    assert download.parse_marker(answer) is None


@pytest.mark.parametrize(
    ("status", "content_range", "asked", "expected"),
    [
        (200, "", 0, 0),
        (200, "", 10, 0),
        (206, "bytes 10-19/20", 10, 10),
        (206, "bytes 10-19/*", 10, 10),
        (206, "bytes 0-19/20", 10, None),
        (206, "", 10, None),
        (416, "bytes */20", 30, None),
        (302, "", 0, None),
    ],
)
def test_knows_where_an_answer_starts(status: int, content_range: str, asked: int, expected: int | None) -> None:
    assert download.starts_at(status, content_range, asked=asked) == expected


@example(1, "²")
@given(st.integers(1, 10_000), st.none() | st.text() | st.integers(0).map(str))
def test_every_pause_is_bounded(failures: int, retry_after: str | None) -> None:
    assert 0 <= download.pause(failures, retry_after) <= 30


def test_pauses_double_and_follow_the_hub() -> None:
    assert [download.pause(failures) for failures in (1, 2, 3)] == [0.25, 0.5, 1.0]
    assert download.pause(1, "7") == 7


def test_another_content_never_continues_a_partial_file() -> None:
    first = RemoteFile("model.safetensors", 5, Checksum("sha256", "a" * 64))
    second = RemoteFile("model.safetensors", 5, Checksum("sha256", "b" * 64))

    assert download.partial_name(first) != download.partial_name(second)


@pytest.mark.parametrize(
    ("checksum", "expected"),
    [
        (Checksum("git", ""), "8c7e5a667f1b771847fe88c01c3de34413a1b220"),
        (Checksum("md5", ""), "7fc56270e7a70fa81a5935b72eacbe29"),
        (Checksum("sha256", ""), "559aead08264d5795d3909718cdd05abd49572e84fe55590eef31a88a08fdffd"),
        (None, "559aead08264d5795d3909718cdd05abd49572e84fe55590eef31a88a08fdffd"),
    ],
)
def test_computes_what_stores_compute(checksum: Checksum | None, expected: str) -> None:
    state = download.hasher(RemoteFile("a", 1, checksum))

    state.update(b"A")

    assert state.hexdigest() == expected
