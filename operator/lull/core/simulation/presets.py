"""Engines that `lull simulate --engine` knows by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.core.simulation.calibration import Engine, build_replica_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lull.core.simulation.replica import ReplicaModel

_LLAMA_8B: Final = "meta-llama/Llama-3.1-8B-Instruct"
_LLAMA_70B: Final = "meta-llama/Llama-3.3-70B-Instruct"

PRESETS: Final[Mapping[str, ReplicaModel]] = {
    "llama-3.1-8b-l4": build_replica_model(_LLAMA_8B, "L4", Engine()),
    "llama-3.1-8b-fp8-l4": build_replica_model(_LLAMA_8B, "L4", Engine(quantization="fp8")),
    "llama-3.1-8b-a10g": build_replica_model(_LLAMA_8B, "A10G", Engine()),
    "llama-3.1-8b-l40s": build_replica_model(_LLAMA_8B, "L40S", Engine()),
    "llama-3.1-8b-a100": build_replica_model(_LLAMA_8B, "A100-80", Engine()),
    "llama-3.1-8b-h100": build_replica_model(_LLAMA_8B, "H100", Engine()),
    "qwen2.5-7b-l4": build_replica_model("Qwen/Qwen2.5-7B-Instruct", "L4", Engine()),
    "qwen3-8b-h100": build_replica_model("Qwen/Qwen3-8B", "H100", Engine()),
    "qwen3-30b-a3b-h100": build_replica_model("Qwen/Qwen3-30B-A3B", "H100", Engine()),
    "qwen3-32b-h100-tp2": build_replica_model("Qwen/Qwen3-32B", "H100", Engine(tensor_parallel=2)),
    "qwen3-32b-h200": build_replica_model("Qwen/Qwen3-32B", "H200", Engine()),
    "mixtral-8x7b-a100-tp2": build_replica_model(
        "mistralai/Mixtral-8x7B-Instruct-v0.1", "A100-80", Engine(tensor_parallel=2)
    ),
    "llama-3.3-70b-a100-tp4": build_replica_model(_LLAMA_70B, "A100-80", Engine(tensor_parallel=4)),
    "llama-3.3-70b-fp8-h100-tp2": build_replica_model(
        _LLAMA_70B, "H100", Engine(tensor_parallel=2, quantization="fp8")
    ),
    "llama-3.3-70b-fp8-h100-tp4": build_replica_model(
        _LLAMA_70B, "H100", Engine(tensor_parallel=4, quantization="fp8")
    ),
    "llama-3.3-70b-fp8-h200": build_replica_model(_LLAMA_70B, "H200", Engine(quantization="fp8")),
    "gpt-oss-20b-h100": build_replica_model("openai/gpt-oss-20b", "H100", Engine()),
    "gpt-oss-120b-h100": build_replica_model("openai/gpt-oss-120b", "H100", Engine()),
    "gpt-oss-120b-h200": build_replica_model("openai/gpt-oss-120b", "H200", Engine()),
    "gpt-oss-120b-h200-tp2": build_replica_model("openai/gpt-oss-120b", "H200", Engine(tensor_parallel=2)),
}
