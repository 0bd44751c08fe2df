"""Whether fetched files are a LoRA adapter that the engine can load, before it is asked to. Reads one folder."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lull.fetcher.failures import Failed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
MAX_BYTES: Final = 16 << 30
"""Largest adapter: what one of the highest rank has on the largest models, several times over."""
MAX_CONFIG: Final = 1 << 20
MAX_HEADER: Final = 64 << 20

_OTHER_WEIGHTS: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Unfit(Failed):
    """The files are there and no engine of this LLMDeployment can load them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an adapter has to go with."""

    max_rank: int
    model: str = ""
    """Source of the model, as the spec writes it."""


@dataclass(frozen=True, slots=True)
class Verified:
    size: int
    note: str = ""
    """What is odd about it and no obstacle."""


def verify(folder: Path, wanted: Wanted) -> Verified:
    """Read the configuration and the header of the weights; Unfit says what to change."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise Unfit(f"It has {size >> 30} GiB, more than any adapter (at most {MAX_BYTES >> 30} GiB): is it a model?")
    config = _read_config(folder)
    _check_config(config, wanted)
    _check_weights(folder, wanted)
    return Verified(size, _compare(str(config.get("base_model_name_or_path") or ""), wanted.model))


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise Unfit(f"It has no {CONFIG}, so it is no LoRA adapter: check its source.")
    try:
        config = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_CONFIG else None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise Unfit(f"Its {CONFIG} is not a JSON object of at most {MAX_CONFIG >> 20} MiB.")
    return config


def _check_config(config: Mapping[str, Any], wanted: Wanted) -> None:
    kind, rank, modules = config.get("peft_type"), config.get("r"), config.get("target_modules")
    if kind != "LORA":
        raise Unfit(f"Its peft_type is {kind!r}; vLLM serves LORA only.")
    if not isinstance(rank, int) or rank < 1:
        raise Unfit(f"The rank in its {CONFIG} is {rank!r}, which is none.")
    _check_rank(rank, wanted)
    if not modules or not isinstance(modules, (list, str)):
        raise Unfit(f"Its {CONFIG} names no target_modules.")
    if config.get("use_dora"):
        raise Unfit("It is a DoRA, which vLLM does not serve: train it without use_dora.")
    if config.get("modules_to_save"):
        raise Unfit("It replaces whole modules (modules_to_save), which vLLM does not serve: merge it into a model.")
    if config.get("bias", "none") != "none":
        raise Unfit(f"It changes biases (bias: {config['bias']!r}), which vLLM does not serve: train it without.")


def _check_rank(rank: int, wanted: Wanted) -> None:
    if rank > wanted.max_rank:
        raise Unfit(
            f"Its rank {rank} is over spec.adapters.maxRank, {wanted.max_rank}: raise that, or train it with a lower rank."
        )


def _check_weights(folder: Path, wanted: Wanted) -> None:
    path = folder / WEIGHTS
    if not path.is_file():
        others = sorted(other.name for pattern in _OTHER_WEIGHTS for other in folder.glob(pattern))
        if others:
            raise Unfit(
                f"Its weights are {others[0]}, which can run code when it is loaded: convert them to {WEIGHTS}."
            )
        raise Unfit(f"It has no {WEIGHTS}: check its source.")
    shapes = _read_shapes(path)
    ranks = [shape[0] for name, shape in shapes.items() if ".lora_A." in name or ".lora_embedding_A" in name]
    if not ranks or not all(isinstance(rank, int) for rank in ranks):
        raise Unfit(f"Its {WEIGHTS} holds no LoRA tensors.")
    # The configuration may say less than there is, and an engine would find out in the middle of its work.
    _check_rank(max(ranks), wanted)


def _read_shapes(path: Path) -> Mapping[str, list[int]]:
    """Read the header of a safetensors file, and check that its tensors fill the file."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, MAX_HEADER)))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        shapes = {name: entry["shape"] for name, entry in tensors.items() if entry["shape"]}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
        raise Unfit(f"Its {WEIGHTS} is no safetensors file.") from None
    if end != size - 8 - length:
        raise Unfit(f"Its {WEIGHTS} has {size} bytes where its header speaks of {end + 8 + length}: it is torn.")
    return shapes


def _compare(base: str, model: str) -> str:
    """A note where the adapter names another model. Names that are paths, or models from elsewhere, say nothing."""
    served = model.removeprefix("hf://").partition("@")[0]
    if not model.startswith("hf://") or base.count("/") != 1 or base.startswith("/") or base.lower() == served.lower():
        return ""
    return f"It says that it was trained for {base}, and the model is {served}."
