"""From facts of a model and a GPU to a ReplicaModel, by coefficients fitted to published measurements. Pure.

`python -m bench calibration` fits the coefficients again, and prints how far predictions are from measurements, those of
models and GPUs that a fit did not see among them. docs/calibration.md says what was measured, and where it falls short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from lull.core.simulation.facts import GpuFacts, ModelFacts, find_gpu, find_model
from lull.core.simulation.replica import ReplicaModel

_MIB: Final = 2**20
_GIB: Final = 2**30

# Bytes of a quantised weight, with its scales.
_BYTES: Final = {
    "bf16": 2.0,
    "bfloat16": 2.0,
    "fp16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "w8a8": 1.0,
    "awq": 0.53,
    "gptq": 0.52,
    "int4": 0.53,
    "w4a16": 0.53,
    "mxfp4": 0.53125,
    "nvfp4": 0.5625,
}
# PCIe makes a small exchange this many times slower.
_PCIE_LATENCY: Final = 2.5
# Kernels that unpack weights to multiply them in 16 bits lose a part of the arithmetic. Assumed, not fitted.
_UNPACKING: Final = 0.85
# Share of a card's memory that CUDA leaves.
_USABLE: Final = 0.994
# What vLLM's start-up takes beside weights and cache: tensors of the sampler, and what is not PyTorch's.
_SAMPLER_TENSORS: Final = 9.65
_BESIDE_ONE_RANK: Final = 0.13 * _GIB
_BESIDE_RANKS: Final = 0.55 * _GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What no data sheet says: the same for every model and every GPU."""

    weight_read: float
    """Share of the memory's bandwidth at which weights of 16 bits are read."""
    weight_read_quantized: float
    """The same of smaller ones."""
    expert_read: float
    """The same of experts."""
    kv_read: float
    """The same of keys and values."""
    kv_read_fp8: float
    """The same of keys and values of 8 bits."""
    compute: float
    """Share of the GPU's peak that matrices of 16 bits reach."""
    compute_fp8: float
    compute_fp4: float
    expert_compute: float
    """Experts' share of what dense layers reach."""
    expert_tile: float
    """Tokens that an expert computes at a time."""
    attention: float
    """Share of the GPU's 16-bit peak that attention reaches over a prompt."""
    exchange_latency: float
    """Seconds of an exchange between two ranks, however small."""
    exchange_link: float
    """Share of the link's bandwidth that large exchanges reach."""
    replicated: float
    """Times that a token's activations pass through memory in each layer, on each rank."""
    step: float
    """Seconds of each step."""
    layer: float
    """Seconds of each layer of each step."""
    expert_layer: float
    """As layer, where the layer has experts, besides."""
    sequence: float
    """Seconds of each sequence of each step."""
    prefill_layer: float
    """As layer, in steps too large for a CUDA graph, besides."""
    request: float
    """Seconds of each request outside of the engine's steps."""
    knee: float
    """How sharply reading gives way to arithmetic."""
    launch: float = 0.0
    """Seconds that a processor takes to launch a layer's kernels one by one, where there are no CUDA graphs."""


CURRENT: Final = Coefficients(
    weight_read=0.93,
    weight_read_quantized=0.81,
    expert_read=0.723,
    kv_read=0.735,
    kv_read_fp8=0.438,
    compute=0.75,
    compute_fp8=0.572,
    compute_fp4=0.45,
    expert_compute=0.31,
    expert_tile=25.6,
    attention=0.625,
    exchange_latency=7.57e-06,
    exchange_link=0.943,
    replicated=10.8,
    step=0.000546,
    layer=2.82e-05,
    expert_layer=1.57e-05,
    sequence=7.05e-06,
    prefill_layer=0.0003,
    request=0.0105,
    knee=4.54,
)
"""vLLM 0.12 to 0.18 on H100 and H200."""

GRAPHS_2024: Final = replace(
    CURRENT,
    weight_read=0.76,
    attention=0.124,
    layer=7.14e-5,
    sequence=2.07e-4,
    prefill_layer=1e-4,
    request=8.55e-3,
)
"""vLLM of 2024 on A100: a slower scheduler."""

EAGER_2023: Final = replace(
    CURRENT,
    weight_read=0.696,
    compute=0.677,
    attention=0.181,
    exchange_link=0.209,
    sequence=4.79e-4,
    prefill_layer=1e-5,
    request=9.84e-3,
    launch=3.81e-4,
)
"""vLLM of 2023 on A100 and H100: without CUDA graphs, with attention kernels of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How an engine is started, where that changes its speed; None leaves vLLM's default."""

    tensor_parallel: int = 1
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    gpu_memory_utilization: float = 0.92
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None


def build_replica_model(
    model: str | ModelFacts,
    gpu: str | GpuFacts,
    engine: Engine | None = None,
    coefficients: Coefficients = CURRENT,
) -> ReplicaModel:
    """Compute how fast a model is on a GPU; ValueError where either is unknown or the model does not fit."""
    model = find_model(model) if isinstance(model, str) else model
    gpu = find_gpu(gpu) if isinstance(gpu, str) else gpu
    engine = engine or Engine()
    ranks = engine.tensor_parallel
    if ranks < 1 or model.heads % ranks:
        raise ValueError(
            f"{model.name} has {model.heads} attention heads, which {ranks} tensor parallel ranks do not divide"
        )
    if engine.kv_cache_dtype not in {"auto", "bf16", "bfloat16", "fp16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2"}:
        raise ValueError(f"no KV cache type named {engine.kv_cache_dtype!r}; there are auto, bf16 and fp8")
    weights = _weights(model, _quantization(model, engine))
    is_roomy = gpu.memory_mib >= 70 * 1024 and not gpu.name.startswith("A100")
    sequences = engine.max_num_seqs or (1024 if is_roomy else 256)
    batched = engine.max_num_batched_tokens or (8192 if is_roomy else 2048)
    k = coefficients
    cache = _cache(model, engine)
    bandwidth = gpu.bandwidth * 1e9 * gpu.sustained_bandwidth
    kv_seconds = cache.bytes_per_layer / (bandwidth * (k.kv_read_fp8 if cache.is_fp8 else k.kv_read))
    attention_seconds = cache.flops_per_pair / (gpu.tflops * 1e12 * gpu.sustained * ranks * k.attention)
    full_layers = model.layers - model.window_layers
    expert_flops = _flops(gpu, weights.quantization, k) * ranks * k.expert_compute
    dense_read = k.weight_read if weights.dense_width == _BYTES["bf16"] else k.weight_read_quantized
    activations = 2.0 * model.layers * model.hidden
    return ReplicaModel(
        weights_seconds=(weights.dense * weights.dense_width / dense_read + weights.head * 2 / k.weight_read)
        / (bandwidth * ranks),
        experts_seconds=model.expert_parameters * weights.width / (bandwidth * ranks * k.expert_read),
        expert_share=model.experts_per_token / model.experts if model.experts else 0.0,
        token_seconds=2 * weights.dense / (_flops(gpu, weights.dense_quantization, k) * ranks)
        + 2 * weights.active_experts / expert_flops,
        expert_tile_seconds=k.expert_tile * model.expert_parameters / expert_flops,
        sequence_seconds=k.sequence + 2 * weights.head / (_flops(gpu, "bf16", k) * ranks),
        replicated_seconds=k.replicated * activations * (1 + model.experts_per_token) / bandwidth,
        exchange_seconds=_exchange_seconds(gpu, ranks, activations, k),
        kv_seconds=kv_seconds * full_layers,
        attention_seconds=attention_seconds * full_layers,
        window=model.window,
        window_kv_seconds=kv_seconds * model.window_layers,
        window_attention_seconds=attention_seconds * model.window_layers,
        overhead_seconds=k.step
        + model.layers * (k.layer + (k.expert_layer if model.experts else 0.0))
        + _exchange_latency(gpu, ranks, model.layers, k),
        prefill_overhead_seconds=k.prefill_layer * model.layers,
        launch_seconds=k.launch * model.layers,
        request_seconds=k.request,
        knee=k.knee,
        kv_tokens=_kv_tokens(model, gpu, engine, weights, cache, sequences=sequences, batched=batched),
        max_num_seqs=sequences,
        max_num_batched_tokens=batched,
    )


@dataclass(frozen=True, slots=True)
class _Weights:
    quantization: str
    dense: float
    """Parameters of every layer that each token passes, without the head."""
    active_experts: float
    head: float
    width: float
    dense_quantization: str
    dense_width: float
    total: float
    """Bytes that memory holds."""


@dataclass(frozen=True, slots=True)
class _Cache:
    bytes_per_layer: float
    """Of one token on one rank."""
    flops_per_pair: float
    """Of one layer, over all ranks."""
    is_fp8: bool


def _quantization(model: ModelFacts, engine: Engine) -> str:
    quantization = (engine.quantization or model.quantization).lower()
    if quantization not in _BYTES:
        raise ValueError(f"no quantisation named {quantization!r}; there are {', '.join(_BYTES)}")
    return quantization


def _weights(model: ModelFacts, quantization: str) -> _Weights:
    width = _BYTES[quantization]
    # MXFP4 is for experts: gpt-oss keeps all else in 16 bits.
    dense_quantization = "bf16" if quantization == "mxfp4" and model.experts else quantization
    dense_width = _BYTES[dense_quantization]
    head = float(model.hidden * model.vocab)
    active_experts = model.expert_parameters * model.experts_per_token / model.experts if model.experts else 0.0
    embeddings = head if model.active >= model.parameters * (1 - 1e-9) else 2 * head
    return _Weights(
        quantization,
        max(0.0, model.active - active_experts - head),
        active_experts,
        head,
        width,
        dense_quantization,
        dense_width,
        max(0.0, model.parameters - model.expert_parameters - embeddings) * dense_width
        + embeddings * _BYTES["bf16"]
        + model.expert_parameters * width,
    )


def _cache(model: ModelFacts, engine: Engine) -> _Cache:
    is_fp8 = engine.kv_cache_dtype.startswith("fp8")
    width = 1.0 if is_fp8 else 2.0
    if model.latent:
        # Every rank holds the latent of all heads.
        return _Cache(model.latent * width, 4.0 * model.heads * model.latent, is_fp8)
    elements = 2.0 * model.kv_heads * model.head_dim / min(engine.tensor_parallel, model.kv_heads)
    return _Cache(elements * width, 4.0 * model.heads * model.head_dim, is_fp8)


def _flops(gpu: GpuFacts, quantization: str, k: Coefficients) -> float:
    match quantization:
        case "nvfp4" if gpu.tflops_fp4:
            tflops = gpu.tflops_fp4 * k.compute_fp4
        case "mxfp4" if gpu.tflops_fp4:
            # Activations of eight bits.
            tflops = gpu.tflops_fp8 * k.compute_fp8
        case "fp8" | "int8" | "w8a8" if gpu.tflops_fp8:
            tflops = gpu.tflops_fp8 * k.compute_fp8
        case "bf16" | "bfloat16" | "fp16" | "float16":
            tflops = gpu.tflops * k.compute
        case _:
            tflops = gpu.tflops * k.compute * _UNPACKING
    return tflops * 1e12 * gpu.sustained


def _exchange_seconds(gpu: GpuFacts, ranks: int, activations: float, k: Coefficients) -> float:
    """One token's share of two all-reduces a layer, each of which passes a ring twice."""
    return 2 * activations * 2 * (ranks - 1) / ranks / (gpu.link * 1e9 * k.exchange_link)


def _exchange_latency(gpu: GpuFacts, ranks: int, layers: int, k: Coefficients) -> float:
    if ranks == 1:
        return 0.0
    # Ranks meet in rounds, of which twice as many ranks need one more.
    rounds = (1 + math.log2(ranks)) / 2
    return 2 * layers * k.exchange_latency * rounds * (1.0 if gpu.is_switched else _PCIE_LATENCY)


def _kv_tokens(
    model: ModelFacts, gpu: GpuFacts, engine: Engine, weights: _Weights, cache: _Cache, *, sequences: int, batched: int
) -> int:
    """Count the tokens that the memory left beside weights and working space holds, as vLLM measures it at its start."""
    ranks = engine.tensor_parallel
    working = max(
        _SAMPLER_TENSORS * 4 * sequences * model.vocab,
        batched * 2.0 * (2 * model.intermediate / ranks + 6 * model.hidden),
    )
    beside = working + (_BESIDE_ONE_RANK if ranks == 1 else _BESIDE_RANKS)
    memory = gpu.memory_mib * _MIB * _USABLE
    room = memory * engine.gpu_memory_utilization - weights.total / ranks - beside
    # Layers of sliding attention keep their window alone; contexts are longer than that wherever memory matters.
    tokens = int(room / (cache.bytes_per_layer * (model.layers - model.window_layers)))
    if tokens < 1:
        raise ValueError(
            f"{model.name} in {weights.quantization} does not fit on {ranks} x {gpu.name}: its weights are "
            f"{weights.total / _GIB:.0f} GiB, the memory {ranks * memory / _GIB:.0f} GiB; "
            "raise the tensor parallel degree, quantise, or take a larger GPU"
        )
    return tokens
