from __future__ import annotations

import pytest

from lull.fetcher.failures import Failed
from lull.fetcher.snapshot import RemoteFile, Weights, choose, stays_inside


def names(*paths: str, weights: Weights = Weights.SAFETENSORS) -> list[str]:
    return [file.path for file in choose((RemoteFile(path) for path in paths), weights)]


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


@pytest.mark.parametrize(
    ("weights", "kept"),
    [
        (Weights.SAFETENSORS, "model-1.safetensors"),
        (Weights.PYTORCH, "pytorch_model.bin"),
        (Weights.MISTRAL, "consolidated.safetensors"),
    ],
)
def test_takes_the_copy_that_is_wanted_and_another_where_there_is_no_such(weights: Weights, kept: str) -> None:
    copies = ["model-1.safetensors", "pytorch_model.bin", "consolidated.safetensors"]

    assert names("config.json", *copies, weights=weights) == ["config.json", kept]
    assert names("model.safetensors", "training_args.bin", weights=weights) == ["model.safetensors"]


def test_refuses_a_repository_without_weights() -> None:
    with pytest.raises(Failed, match="no weights"):
        names("config.json", "model.gguf")


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "a\\b", "a\0b", ".lull/complete.json", "a/./b", "x" * 2000],
)
def test_knows_a_path_that_leaves_the_target(path: str) -> None:
    assert not stays_inside(path)
    assert stays_inside("a/b.safetensors")
