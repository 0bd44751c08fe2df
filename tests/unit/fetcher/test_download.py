from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lull.fetcher import download
from lull.fetcher.download import Marker
from lull.fetcher.failures import Failed, Forbidden, NotFound
from lull.fetcher.snapshot import Checksum, HubSource, RemoteFile

SOURCE = HubSource("org/name", "main")


def test_a_marker_survives_being_written() -> None:
    files = (RemoteFile("a", 1, Checksum("git", "b" * 40)), RemoteFile("c/d", 2))
    marker = Marker("org/name", "main", "c" * 40, files)

    assert download.parse_marker(download.render_marker(marker)) == marker


@pytest.mark.parametrize("answer", [{}, [], None, {"repository": "a", "revision": "b", "commit": "c", "files": [{}]}])
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


def test_storage_behind_a_redirect_is_described_by_the_hub() -> None:
    headers = {"content-length": "1369", "etag": '"x-3"', "x-linked-size": "5", "x-linked-etag": f'"{"e" * 64}"'}

    described = download.describe(RemoteFile("m.safetensors"), headers)

    assert described == RemoteFile("m.safetensors", 5, Checksum("sha256", "e" * 64))


@pytest.mark.parametrize(
    ("status", "has_token", "kind", "sentence"),
    [
        (404, True, NotFound, "was not found on https://hub."),
        (404, False, NotFound, "spec.model.secretName"),
        (401, False, Forbidden, "asks for a token"),
        (403, True, Forbidden, "its account has no access"),
        (400, True, Failed, "status 400"),
    ],
)
def test_says_what_a_refusal_means(status: int, *, has_token: bool, kind: type[Failed], sentence: str) -> None:
    failure = download.refusal(status, source=SOURCE, endpoint="https://hub", has_token=has_token)

    assert type(failure) is kind
    assert sentence in str(failure)
