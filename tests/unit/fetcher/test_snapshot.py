from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.fetcher.failures import Failed
from lull.fetcher.snapshot import Checksum, HubSource, RemoteFile, choose, parse_snapshot, parse_source


def names(*paths: str) -> list[str]:
    return [file.path for file in choose(RemoteFile(path) for path in paths)]


def listing(*paths: str) -> dict[str, object]:
    return {"sha": "a" * 40, "siblings": [{"rfilename": path, "size": 1} for path in paths]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://org/name", HubSource("org/name", "main")),
        ("hf://org/na.me_1@refs/pr/3", HubSource("org/na.me_1", "refs/pr/3")),
        ("hf://org/name@" + "a" * 40, HubSource("org/name", "a" * 40)),
    ],
)
def test_reads_a_source(text: str, expected: HubSource) -> None:
    assert parse_source(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["file:///models/x", "pvc://claim/path"])
def test_says_that_a_source_needs_no_fetching(text: str) -> None:
    with pytest.raises(Failed, match="needs no fetching"):
        parse_source(text)


@pytest.mark.parametrize(
    "text", ["", "hf://name", "hf://a/b/c", "hf://a/b@", "https://a/b", "s3://bucket/key", "hf://../b"]
)
def test_refuses_what_is_not_a_source(text: str) -> None:
    with pytest.raises(Failed, match="not a source that can be fetched"):
        parse_source(text)


def test_only_a_commit_is_pinned() -> None:
    assert parse_source("hf://a/b@" + "0" * 40).is_pinned
    assert not parse_source("hf://a/b@v1").is_pinned


def test_prefers_safetensors_over_pickles_in_the_same_folder() -> None:
    chosen = names(
        "config.json", "model.safetensors", "pytorch_model.bin", "training_args.bin", "1_Dense/pytorch_model.bin"
    )

    assert chosen == ["config.json", "model.safetensors", "1_Dense/pytorch_model.bin"]


def test_takes_pickles_where_there_is_nothing_else() -> None:
    assert names("config.json", "pytorch_model.bin") == ["config.json", "pytorch_model.bin"]


def test_skips_copies_for_other_runtimes_and_decoration() -> None:
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "merges.txt", "LICENSE"]
    skipped = ["README.md", ".gitattributes", "a.PNG", "tf_model.h5", "flax_model.msgpack", "model.onnx", "q4.gguf"]
    folders = ["original/consolidated.00.pth", "original/params.json", "onnx/model.onnx_data", "openvino/model.bin"]

    assert names(*wanted, *skipped, *folders) == wanted


def test_takes_one_of_two_layouts_of_the_same_weights() -> None:
    assert names("model-00001-of-00001.safetensors", "consolidated.safetensors") == ["model-00001-of-00001.safetensors"]
    assert names("consolidated.safetensors", "params.json") == ["consolidated.safetensors", "params.json"]


def test_refuses_a_repository_without_weights() -> None:
    with pytest.raises(Failed, match="no weights"):
        names("config.json", "model.gguf")


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
    "path",
    ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "a\\b", "a\0b", ".lull/complete.json", "a/./b", "x" * 2000],
)
def test_refuses_a_path_that_leaves_the_target(path: str) -> None:
    with pytest.raises(Failed, match="outside the repository"):
        parse_snapshot(listing("model.safetensors", path))


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
