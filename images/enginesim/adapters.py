"""LoRA adapters as vLLM takes them, with its words where it does not."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .payloads import ApiError

_TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"}
_FAILED = "Call to add_lora method failed: Worker failed with error '{}', please check the stack trace above for the root cause"
_HEADER_LIMIT = 1 << 20


@dataclass(slots=True)
class Adapters:
    """The adapters that this engine has loaded."""

    base_names: tuple[str, ...]
    max_rank: int
    model: Path
    loaded: dict[str, str]

    def load(self, name: str, path: str, *, in_place: bool) -> None:
        if not name or not path:
            raise ApiError(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.base_names:
            message = f"The lora adapter '{name}' conflicts with a served base model."
            raise ApiError(400, "InvalidUserInput", message)
        if name in self.loaded and not in_place:
            message = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, "
                "set 'load_inplace' to True."
            )
            raise ApiError(400, "InvalidUserInput", message)
        self._check(name, Path(path))
        self.loaded[name] = path

    def unload(self, name: str) -> None:
        if not name:
            message = "'lora_name' needs to be provided to unload a LoRA adapter."
            raise ApiError(400, "InvalidUserInput", message)
        if name not in self.loaded:
            raise ApiError(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        del self.loaded[name]

    def _check(self, name: str, path: Path) -> None:
        try:
            config: dict[str, Any] = json.loads((path / "adapter_config.json").read_text())
        except (OSError, ValueError):
            raise ApiError(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}") from None
        rank = int(config.get("r", 0))
        if rank > self.max_rank:
            raise _failed(f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}.")
        unknown = [each for each in config.get("target_modules", ()) if each not in _TARGETS]
        if unknown:
            raise _failed(f"While loading {path}, expected target modules in {_TARGETS} but received {unknown}")
        self._check_shapes(path)

    def _check_shapes(self, path: Path) -> None:
        try:
            hidden = int(json.loads((self.model / "config.json").read_text())["hidden_size"])
        except (OSError, ValueError, KeyError):
            return
        for tensor, shape in _shapes(path / "adapter_model.safetensors").items():
            if tensor.endswith("lora_A.weight") and "down_proj" not in tensor and shape[1] != hidden:
                raise _failed(
                    f"The size of tensor a ({hidden}) must match the size of tensor b ({shape[1]}) at non-singleton "
                    "dimension 1"
                )


def _failed(reason: str) -> ApiError:
    return ApiError(500, "InternalServerError", _FAILED.format(reason))


def _shapes(path: Path) -> dict[str, list[int]]:
    """Read the shapes in a safetensors file's header; nothing for a file that is not one."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(min(length, _HEADER_LIMIT)))
    except (OSError, ValueError, struct.error):
        return {}
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
