"""From facts of a model and a GPU to a ReplicaModel, by coefficients fitted to published measurements. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lull.core.simulation.facts import GpuFacts, ModelFacts, find_gpu, find_model
from lull.core.simulation.replica import ReplicaModel

_MIB: Final = 2**20
_GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What no data sheet says, the same for every model and every GPU."""

    weight_read: float
    """Share of the memory's bandwidth at which weights are read."""
    weight_read_fp8: float
    expert_read: float
    kv_read: float
    kv_read_fp8: float
    compute_bf16: float
    compute_fp8: float
    compute_fp4: float
    expert_compute: float
    """Experts' share of what dense layers reach."""
    attention: float
    exchange_latency: float
    exchange_link: float
    step: float
    layer: float
    expert_layer: float
    sequence: float
    prefill_layer: float
    tile: float
    request: float
    knee: float


CURRENT: Final = Coefficients(
    weight_read=0.93,
    weight_read_fp8=0.801,
    expert_read=0.773,
    kv_read=0.714,
    kv_read_fp8=0.463,
    compute_bf16=0.75,
    compute_fp8=0.511,
    compute_fp4=0.35,
    expert_compute=0.249,
    attention=0.7,
    exchange_latency=9.97e-06,
    exchange_link=0.571,
    step=0.000862,
    layer=2.53e-05,
    expert_layer=1.9e-05,
    sequence=7.78e-06,
    prefill_layer=6.22e-05,
    tile=20.6,
    request=0.0113,
    knee=5.0,
)

# Bytes of a quantised weight, with its scales.
_BYTES: Final = {
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "awq": 0.53,
    "gptq": 0.52,
    "int4": 0.53,
    "mxfp4": 0.53125,
    "nvfp4": 0.5625,
}
# PCIe makes a small exchange this many times slower.
_PCIE_LATENCY: Final = 2.5
_WEIGHT_ONLY: Final = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How an engine is started, where that changes its speed; None leaves vLLM's default."""

    tensor_parallel: int = 1
    quantization: str | None = None
    kv_cache_dtype: str = "bf16"
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None


def build_replica_model(
    model: str | ModelFacts,
    gpu: str | GpuFacts,
    engine: Engine | None = None,
    coefficients: Coefficients = CURRENT,
) -> ReplicaModel:
    """Compute how fast a model is on a GPU; ValueError where either is unknown or the model does not fit."""
    engine = engine or Engine()
    model = find_model(model) if isinstance(model, str) else model
    gpu = find_gpu(gpu) if isinstance(gpu, str) else gpu
    k = coefficients
    quantization = _quantization(model, engine)
    ranks = engine.tensor_parallel
    width = _BYTES[quantization]
    head = model.hidden * model.vocab
    expert_active = model.expert_parameters * model.experts_per_token / model.experts if model.experts else 0.0
    dense = max(0.0, model.active - expert_active - head)
    dense_width = 2.0 if quantization == "mxfp4" and model.experts else width
    bandwidth = gpu.bandwidth * 1e9 * ranks
    dense_flops = _flops(gpu, "bf16" if dense_width == 2.0 else quantization, k) * ranks
    expert_flops = _flops(gpu, quantization, k) * ranks * k.expert_compute
    bf16_flops = gpu.tflops * 1e12 * gpu.sustained * ranks
    kv_width = 1.0 if engine.kv_cache_dtype.startswith("fp8") else 2.0
    kv_read = k.kv_read_fp8 if kv_width == 1.0 else k.kv_read
    if model.latent:
        kv_layer, kv_ranks = float(model.latent), 1
        pair_flops = 2.0 * model.heads * (2 * model.latent)
    else:
        kv_layer, kv_ranks = 2.0 * model.kv_heads * model.head_dim, min(ranks, model.kv_heads)
        pair_flops = 4.0 * model.heads * model.head_dim
    full_layers = model.layers - model.window_layers
    kv_seconds = kv_layer * kv_width / (gpu.bandwidth * 1e9 * kv_ranks * kv_read)
    attention_seconds = pair_flops / (bf16_flops * k.attention)
    wire = gpu.link * 1e9 * k.exchange_link
    exchange = 2 * model.layers * model.hidden * 2.0 * 2 * (ranks - 1) / ranks / wire
    latency = 2 * model.layers * k.exchange_latency * (1.0 if gpu.is_switched else _PCIE_LATENCY)
    roomy = gpu.memory_mib >= 70 * 1024 and not gpu.name.startswith("A100")
    max_num_seqs = engine.max_num_seqs or (1024 if roomy else 256)
    max_num_batched_tokens = engine.max_num_batched_tokens or (8192 if roomy else 2048)
    weights = (
        (model.parameters - model.expert_parameters - 2 * head) * dense_width
        + 2 * head * 2.0
        + model.expert_parameters * width
    )
    peak = max(
        9.65 * 4 * max_num_seqs * model.vocab,
        max_num_batched_tokens * 2.0 * (2 * model.intermediate / ranks + 6 * model.hidden),
    )
    beside = peak + (0.13 if ranks == 1 else 0.55) * _GIB
    room = gpu.memory_mib * 0.994 * _MIB * engine.gpu_memory_utilization - weights / ranks - beside
    kv_token = kv_layer * kv_width / kv_ranks
    # Layers of sliding attention keep their window alone; contexts are longer than that wherever memory matters.
    kv_tokens = int(room / (kv_token * max(1, full_layers)))
    if kv_tokens < 1:
        raise ValueError(
            f"{model.name} in {quantization} does not fit on {ranks} x {gpu.name}: "
            f"{weights / _GIB:.0f} GiB of weights; raise the tensor parallel degree or take a larger GPU"
        )
    return ReplicaModel(
        weights_seconds=(
            dense * dense_width / (k.weight_read if dense_width == 2.0 else k.weight_read_fp8)
            + head * 2.0 / k.weight_read
        )
        / bandwidth,
        experts_seconds=model.expert_parameters * width / (bandwidth * k.expert_read),
        expert_share=model.experts_per_token / model.experts if model.experts else 0.0,
        token_seconds=2 * dense / dense_flops + 2 * expert_active / expert_flops,
        expert_tile_seconds=k.tile / 2 * 2 * model.expert_parameters / expert_flops,
        sequence_seconds=k.sequence + 2 * head / _flops(gpu, "bf16", k) / ranks,
        kv_seconds=kv_seconds * full_layers,
        window=model.window,
        window_kv_seconds=kv_seconds * model.window_layers,
        attention_seconds=attention_seconds * full_layers,
        window_attention_seconds=attention_seconds * model.window_layers,
        overhead_seconds=k.step
        + model.layers * (k.layer + (k.expert_layer if model.experts else 0.0))
        + (latency if ranks > 1 else 0.0),
        exchange_seconds=exchange if ranks > 1 else 0.0,
        prefill_overhead_seconds=k.prefill_layer * model.layers,
        request_seconds=k.request,
        knee=k.knee,
        kv_tokens=kv_tokens,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
    )


def _quantization(model: ModelFacts, engine: Engine) -> str:
    quantization = (engine.quantization or model.quantization).lower()
    if quantization not in _BYTES:
        raise ValueError(f"no quantisation named {quantization!r}; there are {', '.join(_BYTES)}")
    return quantization


def _flops(gpu: GpuFacts, quantization: str, k: Coefficients) -> float:
    match quantization:
        case "nvfp4" if gpu.tflops_fp4:
            tflops = gpu.tflops_fp4 * k.compute_fp4
        case "fp8" | "int8" | "mxfp4" if gpu.tflops_fp8 and (quantization != "mxfp4" or gpu.tflops_fp4):
            tflops = gpu.tflops_fp8 * k.compute_fp8
        case "bf16" | "fp16":
            tflops = gpu.tflops * k.compute_bf16
        case _:
            tflops = gpu.tflops * k.compute_bf16 * _WEIGHT_ONLY
    return tflops * 1e12 * gpu.sustained
