from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.fetcher.failures import Failed
from lull.fetcher.sources import (
    HubSource,
    MountedSource,
    ObjectSource,
    RegistrySource,
    Source,
    parse_source,
)

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://org/name", HubSource("org/name", "main")),
        ("hf://org/na.me_1@refs/pr/3", HubSource("org/na.me_1", "refs/pr/3")),
        ("hf://org/name@" + "a" * 40, HubSource("org/name", "a" * 40)),
        ("s3://my-bucket/models/llama-3.1", ObjectSource("s3", "my-bucket", "models/llama-3.1")),
        ("gs://bucket.of.mine", ObjectSource("gs", "bucket.of.mine")),
        ("oci://ghcr.io/org/model", RegistrySource("ghcr.io", "org/model")),
        ("oci://localhost:5000/model:v1", RegistrySource("localhost:5000", "model", "v1")),
        (f"oci://r.example/a/b/c@{DIGEST}", RegistrySource("r.example", "a/b/c", None, DIGEST)),
        (f"oci://r.example:443/a:v1@{DIGEST}", RegistrySource("r.example:443", "a", "v1", DIGEST)),
        ("file:///models/x", MountedSource("file:///models/x")),
        ("pvc://claim/path", MountedSource("pvc://claim/path")),
    ],
)
def test_reads_a_source(text: str, expected: Source) -> None:
    assert parse_source(text) == expected
    assert str(expected) == text


def test_a_folder_is_the_same_with_and_without_a_slash_at_the_end() -> None:
    assert parse_source("s3://bucket/models/tiny/") == parse_source("s3://bucket/models/tiny")
    assert parse_source("s3://bucket/") == parse_source("s3://bucket")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "hf://name",
            "hf://a/b/c",
            "hf://a/b@",
            "hf://../b",
            "https://a/b",
            "file://relative",
            "s3://",
            "s3:///key",
        ),
        *("s3://bucket//key", "gs://UPPER/key", "s3://bucket/a b", "oci://host", "oci://host/Upper", "oci://host/a:"),
        *("oci://host/a@sha256:12", "oci://host/a@md5:" + "0" * 32, "oci://user@host/a", "s3://b/../c"),
    ],
)
def test_refuses_what_is_not_a_source(text: str) -> None:
    with pytest.raises(Failed, match="is not a source: write hf://"):
        parse_source(text)


def test_asks_docker_hub_where_it_answers() -> None:
    official, other = parse_source("oci://docker.io/model"), parse_source("oci://docker.io/org/model:v1")

    assert isinstance(official, RegistrySource)
    assert isinstance(other, RegistrySource)
    assert (official.api_host, official.api_repository, official.reference) == (
        "registry-1.docker.io",
        "library/model",
        "latest",
    )
    assert (other.api_host, other.api_repository, other.reference) == ("registry-1.docker.io", "org/model", "v1")


@given(st.text() | st.from_regex(re.compile(r"(hf|s3|gs|oci)://[a-z0-9/:@.]+"), fullmatch=True))
def test_whatever_is_written_is_a_source_or_a_failure(text: str) -> None:
    try:
        source = parse_source(text)
    except Failed:
        return

    assert parse_source(str(source)) == source
