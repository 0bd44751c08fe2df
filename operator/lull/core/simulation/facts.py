"""What is published of models and GPUs: the facts that a replica's speed is computed from. Pure.

Models: config.json files on Hugging Face, parameters counted from them and checked against the published totals; Llama 4
Scout, Llama 3.2, Mistral 7B v0.3 and BLOOM from their model cards. GPUs: the makers' data sheets, dense TFLOPS (without 2:4
sparsity), one direction of the link to a peer. Facts carry no copyright.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_SAME_SHAPE: Final = (
    ("meta-llama-", "llama-"),
    ("llama-3.3-", "llama-3.1-"),
    ("llama-3-", "llama-3.1-"),
    ("llama2-", "llama-2-"),
    ("-coder-", "-"),
    ("bloom-176b", "bloom"),
    ("deepseek-v3.1", "deepseek-v3"),
    ("-small-3.1-24b", "-small-24b"),
    ("-small-3.2-24b", "-small-24b"),
)
_TUNINGS: Final = frozenset({"instruct", "chat", "it", "hf", "base", "v0.1", "v0.2", "v0.3", "v1.0", "2407", "2501"})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's config.json says about its size and shape."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    parameters: float
    """All that memory holds."""
    active: float
    """Those that one token passes, without the input embedding."""
    experts: int = 0
    experts_per_token: int = 0
    expert_parameters: float = 0.0
    """Of all experts of all layers, routed ones only."""
    window: int = 0
    """Tokens that a layer of sliding attention looks back; 0 where there are none."""
    window_layers: int = 0
    latent: int = 0
    """Elements per token and layer of multi-head latent attention; 0 for any other."""
    quantization: str = "bf16"
    """How the published checkpoint is quantised."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a GPU's data sheet says, and how much of it lasts."""

    name: str
    memory_mib: int
    bandwidth: float
    """GB/s of its memory."""
    tflops: float
    """Of BF16 (FP16 where there is none)."""
    tflops_fp8: float
    tflops_fp4: float
    link: float
    """GB/s to a peer, one way."""
    is_switched: bool
    """Whether the link is NVLink, NVSwitch or xGMI rather than PCIe."""
    sustained: float = 1.0
    """Share of the arithmetic that lasts: the power limit of small cards, the maturity of kernels."""
    sustained_bandwidth: float = 1.0
    """The same of the memory's bandwidth."""
    labels: tuple[str, ...] = ()
    """As NVIDIA's GPU feature discovery names it."""


_DEEPSEEK_V3: Final = ModelFacts(
    "deepseek-ai/DeepSeek-V3",
    61,
    7168,
    128,
    128,
    192,
    18432,
    129280,
    671e9,
    36.63e9,
    experts=256,
    experts_per_token=8,
    expert_parameters=653.9e9,
    latent=576,
    quantization="fp8",
)

MODELS: Final = (
    ModelFacts("meta-llama/Llama-3.2-1B-Instruct", 16, 2048, 32, 8, 64, 8192, 128256, 1.236e9, 1.236e9),
    ModelFacts("meta-llama/Llama-3.2-3B-Instruct", 28, 3072, 24, 8, 128, 8192, 128256, 3.213e9, 3.213e9),
    ModelFacts("meta-llama/Llama-3.1-8B-Instruct", 32, 4096, 32, 8, 128, 14336, 128256, 8.03e9, 7.505e9),
    ModelFacts("meta-llama/Llama-3.1-70B-Instruct", 80, 8192, 64, 8, 128, 28672, 128256, 70.55e9, 69.5e9),
    ModelFacts("meta-llama/Llama-3.1-405B-Instruct", 126, 16384, 128, 8, 128, 53248, 128256, 405.9e9, 403.8e9),
    ModelFacts("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 22, 2048, 32, 4, 64, 5632, 32000, 1.1e9, 1.035e9),
    ModelFacts("Qwen/Qwen2.5-0.5B-Instruct", 24, 896, 14, 2, 64, 4864, 151936, 0.494e9, 0.494e9),
    ModelFacts("Qwen/Qwen2.5-1.5B-Instruct", 28, 1536, 12, 2, 128, 8960, 151936, 1.544e9, 1.544e9),
    ModelFacts("Qwen/Qwen2.5-3B-Instruct", 36, 2048, 16, 2, 128, 11008, 151936, 3.086e9, 3.086e9),
    ModelFacts("Qwen/Qwen2.5-7B-Instruct", 28, 3584, 28, 4, 128, 18944, 152064, 7.616e9, 7.071e9),
    ModelFacts("Qwen/Qwen2.5-14B-Instruct", 48, 5120, 40, 8, 128, 13824, 152064, 14.77e9, 13.99e9),
    ModelFacts("Qwen/Qwen2.5-32B-Instruct", 64, 5120, 40, 8, 128, 27648, 152064, 32.76e9, 31.99e9),
    ModelFacts("Qwen/Qwen2.5-72B-Instruct", 80, 8192, 64, 8, 128, 29568, 152064, 72.71e9, 71.46e9),
    ModelFacts("Qwen/Qwen3-0.6B", 28, 1024, 16, 8, 128, 3072, 151936, 0.596e9, 0.596e9),
    ModelFacts("Qwen/Qwen3-1.7B", 28, 2048, 16, 8, 128, 6144, 151936, 1.721e9, 1.721e9),
    ModelFacts("Qwen/Qwen3-4B", 36, 2560, 32, 8, 128, 9728, 151936, 4.022e9, 4.022e9),
    ModelFacts("Qwen/Qwen3-8B", 36, 4096, 32, 8, 128, 12288, 151936, 8.191e9, 7.568e9),
    ModelFacts("Qwen/Qwen3-14B", 40, 5120, 40, 8, 128, 17408, 151936, 14.77e9, 13.99e9),
    ModelFacts("Qwen/Qwen3-32B", 64, 5120, 64, 8, 128, 25600, 151936, 32.76e9, 31.98e9),
    ModelFacts(
        "Qwen/Qwen3-30B-A3B",
        48,
        2048,
        32,
        4,
        128,
        6144,
        151936,
        30.53e9,
        3.042e9,
        experts=128,
        experts_per_token=8,
        expert_parameters=28.99e9,
    ),
    ModelFacts(
        "Qwen/Qwen3-235B-A22B",
        94,
        4096,
        64,
        4,
        128,
        12288,
        151936,
        235.1e9,
        21.57e9,
        experts=128,
        experts_per_token=8,
        expert_parameters=227.1e9,
    ),
    ModelFacts(
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        32,
        4096,
        32,
        8,
        128,
        14336,
        32000,
        46.7e9,
        12.75e9,
        experts=8,
        experts_per_token=2,
        expert_parameters=45.1e9,
    ),
    ModelFacts(
        "mistralai/Mixtral-8x22B-Instruct-v0.1",
        56,
        6144,
        48,
        8,
        128,
        16384,
        32000,
        140.6e9,
        38.96e9,
        experts=8,
        experts_per_token=2,
        expert_parameters=135.3e9,
    ),
    _DEEPSEEK_V3,
    replace(_DEEPSEEK_V3, name="deepseek-ai/DeepSeek-R1"),
    ModelFacts(
        "moonshotai/Kimi-K2-Instruct",
        61,
        7168,
        64,
        64,
        192,
        18432,
        163840,
        1026e9,
        31.69e9,
        experts=384,
        experts_per_token=8,
        expert_parameters=1015e9,
        latent=576,
        quantization="fp8",
    ),
    ModelFacts(
        "openai/gpt-oss-20b",
        24,
        2880,
        64,
        8,
        64,
        2880,
        201088,
        20.91e9,
        3.608e9,
        experts=32,
        experts_per_token=4,
        expert_parameters=19.12e9,
        window=128,
        window_layers=12,
        quantization="mxfp4",
    ),
    ModelFacts(
        "openai/gpt-oss-120b",
        36,
        2880,
        64,
        8,
        64,
        2880,
        201088,
        116.8e9,
        5.133e9,
        experts=128,
        experts_per_token=4,
        expert_parameters=114.7e9,
        window=128,
        window_layers=18,
        quantization="mxfp4",
    ),
    ModelFacts(
        "google/gemma-3-1b-it", 26, 1152, 4, 1, 256, 6912, 262144, 0.9999e9, 0.9999e9, window=512, window_layers=22
    ),
    ModelFacts(
        "google/gemma-3-4b-it", 34, 2560, 8, 4, 256, 10240, 262208, 4.297e9, 3.88e9, window=1024, window_layers=29
    ),
    ModelFacts(
        "google/gemma-3-12b-it", 48, 3840, 16, 8, 256, 15360, 262208, 12.18e9, 11.77e9, window=1024, window_layers=40
    ),
    ModelFacts(
        "google/gemma-3-27b-it", 62, 5376, 32, 16, 128, 21504, 262208, 27.43e9, 27.01e9, window=1024, window_layers=52
    ),
    ModelFacts("mistralai/Mistral-Small-24B-Instruct-2501", 40, 5120, 32, 8, 128, 32768, 131072, 23.57e9, 22.9e9),
    ModelFacts("mistralai/Mistral-Nemo-Instruct-2407", 40, 5120, 32, 8, 128, 14336, 131072, 12.25e9, 11.58e9),
    ModelFacts("microsoft/phi-4", 40, 5120, 40, 10, 128, 17920, 100352, 14.66e9, 14.15e9),
    ModelFacts("microsoft/Phi-4-mini-instruct", 32, 3072, 24, 8, 128, 8192, 200064, 3.836e9, 3.836e9),
    ModelFacts("meta-llama/Llama-2-7b-hf", 32, 4096, 32, 32, 128, 11008, 32000, 6.738e9, 6.607e9),
    ModelFacts("meta-llama/Llama-2-70b-hf", 80, 8192, 64, 8, 128, 28672, 32000, 68.98e9, 68.71e9),
    ModelFacts("codellama/CodeLlama-34b-Instruct-hf", 48, 8192, 64, 8, 128, 22016, 32000, 33.74e9, 33.48e9),
    ModelFacts("01-ai/Yi-34B", 60, 7168, 56, 8, 128, 20480, 64000, 34.39e9, 33.93e9),
    ModelFacts(
        "RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic",
        48,
        5120,
        40,
        8,
        128,
        8192,
        202048,
        107.8e9,
        16.13e9,
        experts=16,
        experts_per_token=1,
        expert_parameters=96.64e9,
        quantization="fp8",
    ),
    ModelFacts("mistralai/Mistral-7B-Instruct-v0.3", 32, 4096, 32, 8, 128, 14336, 32768, 7.248e9, 7.114e9),
    ModelFacts("bigscience/bloom", 70, 14336, 112, 112, 128, 57344, 250880, 176.2e9, 176.2e9),
)

GPUS: Final = (
    GpuFacts("T4", 15360, 320, 65, 0, 0, 16, is_switched=False, sustained=0.5, labels=("Tesla-T4",)),
    GpuFacts("L4", 23034, 300, 121, 242, 0, 32, is_switched=False, sustained=0.6, labels=("NVIDIA-L4",)),
    GpuFacts("A10", 23028, 600, 125, 0, 0, 32, is_switched=False, labels=("NVIDIA-A10",)),
    GpuFacts("A10G", 23028, 600, 70, 0, 0, 32, is_switched=False, labels=("NVIDIA-A10G",)),
    GpuFacts("L40S", 46068, 864, 362, 733, 0, 32, is_switched=False, labels=("NVIDIA-L40S",)),
    GpuFacts(
        "A100-40",
        40960,
        1555,
        312,
        0,
        0,
        300,
        is_switched=True,
        labels=(
            "NVIDIA-A100-SXM4-40GB",
            "NVIDIA-A100-PCIE-40GB",
        ),
    ),
    GpuFacts("A100-80", 81920, 2039, 312, 0, 0, 300, is_switched=True, labels=("NVIDIA-A100-SXM4-80GB",)),
    GpuFacts("A100-80-PCIe", 81920, 1935, 312, 0, 0, 32, is_switched=False, labels=("NVIDIA-A100-80GB-PCIe",)),
    GpuFacts("H100", 81559, 3350, 989, 1979, 0, 450, is_switched=True, labels=("NVIDIA-H100-80GB-HBM3",)),
    GpuFacts("H100-PCIe", 81559, 2000, 756, 1513, 0, 64, is_switched=False, labels=("NVIDIA-H100-PCIe",)),
    GpuFacts("H100-NVL", 95830, 3900, 835, 1671, 0, 300, is_switched=True, labels=("NVIDIA-H100-NVL",)),
    GpuFacts("H200", 143771, 4800, 989, 1979, 0, 450, is_switched=True, labels=("NVIDIA-H200",)),
    GpuFacts("B200", 183359, 7700, 2250, 4500, 9000, 900, is_switched=True, labels=("NVIDIA-B200",)),
    GpuFacts("B300", 274432, 8000, 2250, 4500, 13500, 900, is_switched=True, labels=("NVIDIA-B300-SXM6-AC",)),
    GpuFacts("GB200", 189471, 8000, 2500, 5000, 10000, 900, is_switched=True, labels=("NVIDIA-GB200",)),
    GpuFacts("GB300", 294912, 8000, 2500, 5000, 15000, 900, is_switched=True, labels=("NVIDIA-GB300",)),
    GpuFacts("RTX-4090", 24564, 1008, 165, 330, 0, 32, is_switched=False, labels=("NVIDIA-GeForce-RTX-4090",)),
    GpuFacts(
        "RTX-6000-Ada", 49140, 960, 364, 728, 0, 32, is_switched=False, labels=("NVIDIA-RTX-6000-Ada-Generation",)
    ),
    GpuFacts(
        "RTX-PRO-6000-BSE",
        97887,
        1600,
        468,
        936,
        1871,
        64,
        is_switched=False,
        labels=("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",),
    ),
    GpuFacts(
        "MI300X",
        196608,
        5300,
        1307,
        2615,
        0,
        448,
        is_switched=True,
        sustained=0.6,
        sustained_bandwidth=0.65,
        labels=("AMD_Instinct_MI300X_OAM",),
    ),
    GpuFacts(
        "MI325X",
        262144,
        6000,
        1307,
        2615,
        0,
        448,
        is_switched=True,
        sustained=0.6,
        sustained_bandwidth=0.65,
        labels=("AMD_Instinct_MI325X_OAM",),
    ),
    GpuFacts(
        "MI355X",
        294912,
        8000,
        2516,
        5033,
        10066,
        538,
        is_switched=True,
        sustained=0.6,
        sustained_bandwidth=0.65,
        labels=("AMD_Instinct_MI355X_OAM",),
    ),
)


def find_model(name: str) -> ModelFacts:
    """Find a model by its name on Hugging Face, whoever tuned or quantised it; ValueError where there is none."""
    wanted = _model_words(name)
    found = [facts for facts in MODELS if _model_words(facts.name) == wanted]
    # "Llama-3.1-8B-Instruct-FP8" is a Llama-3.1-8B-Instruct, "llama-3.1-8b" as well.
    found = found or [facts for facts in MODELS if _begins(_model_words(facts.name), wanted)]
    if not found:
        raise ValueError(f"nothing is known of the model {name!r}; known are {_names(MODELS)}")
    return max(found, key=lambda facts: len(_model_words(facts.name)))


def find_gpu(name: str) -> GpuFacts:
    """Find a GPU by its name or its node label; ValueError where there is none."""
    wanted = _gpu_words(name)
    found = [facts for facts in GPUS if wanted in [_gpu_words(word) for word in (facts.name, *facts.labels)]]
    # "H100-SXM-80" is an H100, "H100-NVL-94" an H100-NVL, and what is called A100 has 80 GB.
    found = found or [facts for facts in GPUS if _gpu_words(facts.name) <= wanted]
    found = found or [facts for facts in GPUS if wanted and wanted <= _gpu_words(facts.name)][-1:]
    if not found:
        raise ValueError(f"nothing is known of the GPU {name!r}; known are {_names(GPUS)}")
    return max(found, key=lambda facts: len(_gpu_words(facts.name)))


def _names(facts: Iterable[ModelFacts | GpuFacts]) -> str:
    return ", ".join(one.name for one in facts)


def _model_words(name: str) -> tuple[str, ...]:
    plain = name.rpartition("/")[2].lower()
    for spelling, usual in _SAME_SHAPE:
        plain = plain.replace(spelling, usual)
    return tuple(word for word in re.split(r"[-_ ]+", plain) if word not in _TUNINGS)


def _begins(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return bool(one) and one == other[: len(one)]


def _gpu_words(name: str) -> frozenset[str]:
    words = re.split(r"[^a-z0-9]+", name.lower())
    return frozenset(word.removesuffix("gb") for word in words) - {"nvidia", "amd", "", "sxm", "sxm4", "sxm5"}
