from __future__ import annotations

import pytest

from lull.fetcher.failures import Failed
from lull.fetcher.snapshot import RemoteFile, choose, stays_inside


def names(*paths: str) -> list[str]:
    return [file.path for file in choose(RemoteFile(path) for path in paths)]


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


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "a\\b", "a\0b", ".lull/complete.json", "a/./b", "x" * 2000],
)
def test_knows_a_path_that_leaves_the_target(path: str) -> None:
    assert not stays_inside(path)
    assert stays_inside("a/b.safetensors")
