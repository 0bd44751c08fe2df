"""What an adapter has to be, before an engine is asked to load it."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from lull.fetcher.adapters import CONFIG, WEIGHTS, Unfit, Wanted, verify

if TYPE_CHECKING:
    from pathlib import Path

WANTED = Wanted(max_rank=16, model="hf://lull/tiny")
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")


def write(folder: Path, *, rank: int = 8, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"peft_type": "LORA", "r": rank, "target_modules": ["q_proj"], "bias": "none", **config}
    (folder / CONFIG).write_text(json.dumps(whole))
    (folder / WEIGHTS).write_bytes(weights({A: [rank, 4], B: [4, rank]}))
    return folder


def weights(shapes: dict[str, list[int]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (rows, columns) in shapes.items():
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [end, end + 4 * rows * columns]}
        end += 4 * rows * columns
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def test_one_that_fits_passes_with_its_size(tmp_path: Path) -> None:
    folder = write(tmp_path, base_model_name_or_path="lull/tiny")

    verified = verify(folder, WANTED)

    assert verified.size == sum(path.stat().st_size for path in folder.iterdir())
    assert verified.note == ""


@pytest.mark.parametrize(
    ("base", "model", "is_noted"),
    [
        ("other/model", "hf://lull/tiny", True),
        ("Lull/Tiny", "hf://lull/tiny@v1", False),
        ("/data/models/tiny", "hf://lull/tiny", False),
        ("tiny", "hf://lull/tiny", False),
        ("other/model", "s3://bucket/tiny", False),
    ],
)
def test_another_base_model_is_noted_and_no_obstacle(tmp_path: Path, base: str, model: str, is_noted: bool) -> None:
    folder = write(tmp_path, base_model_name_or_path=base)

    assert ("trained for other/model" in verify(folder, Wanted(16, model)).note) == is_noted


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rank": 64}, "rank 64 is over spec.adapters.maxRank, 16"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": "8"}, "rank in its adapter_config.json is '8'"),
        ({"r": 0}, "which is none"),
        ({"target_modules": []}, "names no target_modules"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        # Whatever the configuration says, the tensors are what is loaded.
        ({"rank": 64, "r": 8}, "rank 64 is over"),
    ],
)
def test_what_cannot_be_served_is_named(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(Unfit, match=words):
        verify(write(tmp_path, **config), WANTED)


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(Unfit, match=r"no adapter_config\.json"):
        verify(tmp_path, WANTED)


def test_weights_that_can_run_code_are_not_taken(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")

    with pytest.raises(Unfit, match=r"adapter_model\.bin, which can run code"):
        verify(folder, WANTED)


def test_missing_weights_are_missed(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / WEIGHTS).unlink()

    with pytest.raises(Unfit, match=r"no adapter_model\.safetensors"):
        verify(folder, WANTED)


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"\xff" * 64, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b"{}"]
)
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path)
    (folder / WEIGHTS).write_bytes(content)

    with pytest.raises(Unfit, match="safetensors"):
        verify(folder, WANTED)


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-10])

    with pytest.raises(Unfit, match="torn"):
        verify(folder, WANTED)


def test_weights_without_lora_tensors_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / WEIGHTS).write_bytes(weights({"model.embed_tokens.weight": [4, 4]}))

    with pytest.raises(Unfit, match="no LoRA tensors"):
        verify(folder, WANTED)


@pytest.mark.parametrize("content", [b"", b"[]", b"{" + b" " * (2 << 20) + b"}"])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path)
    (folder / CONFIG).write_bytes(content)

    with pytest.raises(Unfit, match="not a JSON object"):
        verify(folder, WANTED)
