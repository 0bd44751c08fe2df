from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.fetcher.failures import Failed, Forbidden, NotFound
from lull.fetcher.hub import describe, parse_snapshot, refusal
from lull.fetcher.snapshot import Checksum, RemoteFile
from lull.fetcher.sources import HubSource

SOURCE = HubSource("org/name", "main")


def test_storage_behind_a_redirect_is_described_by_the_hub() -> None:
    headers = {"content-length": "1369", "etag": '"x-3"', "x-linked-size": "5", "x-linked-etag": f'"{"e" * 64}"'}

    described = describe(RemoteFile("m.safetensors"), headers)

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
    failure = refusal(status, source=SOURCE, endpoint="https://hub", has_token=has_token)

    assert type(failure) is kind
    assert sentence in str(failure)


def test_reads_sizes_and_both_kinds_of_checksum() -> None:
    snapshot = parse_snapshot(
        {
            "sha": "a" * 40,
            "siblings": [
                {"rfilename": "config.json", "size": 7, "blobId": "b" * 40},
                {"rfilename": "m.safetensors", "size": 9, "blobId": "b" * 40, "lfs": {"sha256": "c" * 64, "size": 9}},
                {"rfilename": "n.safetensors", "lfs": {"oid": "sha256:" + "d" * 64, "size": 5}},
                {"rfilename": "merges.txt"},
            ],
        }
    )

    assert snapshot.files == (
        RemoteFile("config.json", 7, Checksum("git", "b" * 40)),
        RemoteFile("m.safetensors", 9, Checksum("sha256", "c" * 64)),
        RemoteFile("n.safetensors", 5, Checksum("sha256", "d" * 64)),
        RemoteFile("merges.txt"),
    )


@pytest.mark.parametrize(
    "answer",
    [{}, {"sha": "a" * 40}, {"sha": None, "siblings": []}, {"sha": "../x", "siblings": []}, {"siblings": [1]}, []],
)
def test_refuses_a_listing_that_is_none(answer: dict[str, object]) -> None:
    with pytest.raises(Failed, match="listing"):
        parse_snapshot(answer)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["sha", "siblings", "rfilename", "lfs", "size"]), inner)
    ),
    max_leaves=10,
)


@given(json_values)
def test_whatever_the_hub_says_is_a_listing_or_a_failure(answer: dict[str, object]) -> None:
    with suppress(Failed):
        parse_snapshot(answer)
