"""How far the replica model is from what was measured, and what it is built from."""

from __future__ import annotations

from statistics import median

import pytest

from bench.calibration import Point, published, sageserve, splitwise
from lull.core.simulation.calibration import (
    CURRENT,
    EAGER_2023,
    GRAPHS_2024,
    Coefficients,
    Engine,
    build_replica_model,
)
from lull.core.simulation.facts import GPUS, MODELS, GpuFacts, ModelFacts, find_gpu, find_model
from lull.core.simulation.presets import PRESETS
from lull.core.simulation.replica import Load, highest_rate


@pytest.mark.parametrize(
    ("points", "coefficients"),
    [(published("calib"), CURRENT), (splitwise(), EAGER_2023), (sageserve(), GRAPHS_2024)],
    ids=["published", "splitwise", "sageserve"],
)
def test_reproduces_what_was_measured(points: list[Point], coefficients: Coefficients) -> None:
    ttft, tpot = zip(*(point.predict(coefficients) for point in points), strict=True)

    assert median(abs(seen / point.tpot - 1) for seen, point in zip(tpot, points, strict=True)) <= 0.10
    assert median(abs(seen / point.ttft - 1) for seen, point in zip(ttft, points, strict=True)) <= 0.25


def test_serves_as_many_requests_as_llm_d_measured() -> None:
    load = Load(input_tokens=4000, output_tokens=1000, variability=0)

    assert 1.4 <= highest_rate(PRESETS["qwen3-32b-h100-tp2"], load, ttft=3, tpot=0.1) <= 1.5


def test_reads_as_fast_as_llm_d_measured() -> None:
    # 15,900 tokens/s through a router, 20,500 by single requests.
    model = PRESETS["qwen3-32b-h100-tp2"]

    assert 15_900 <= 8192 / model.prefill_seconds(8192) <= 20_500


@pytest.mark.parametrize("facts", MODELS, ids=lambda facts: facts.name)
def test_a_models_facts_agree_with_each_other(facts: ModelFacts) -> None:
    model = find_model(facts.name)

    assert model is facts
    assert model.heads % model.kv_heads == 0
    assert 0 < model.active <= model.parameters
    assert model.expert_parameters < model.parameters
    assert (model.experts > 0) == (model.expert_parameters > 0) == (model.experts_per_token > 0)
    assert model.window_layers < model.layers


@pytest.mark.parametrize("facts", GPUS, ids=lambda facts: facts.name)
def test_a_gpu_is_found_by_its_name_and_its_labels(facts: GpuFacts) -> None:
    assert all(find_gpu(name) is facts for name in (facts.name, *facts.labels))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", "Qwen/Qwen2.5-32B-Instruct"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-30B-A3B"),
        ("qwen3-32b", "Qwen/Qwen3-32B"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-ai/DeepSeek-R1"),
    ],
)
def test_finds_a_model_whoever_tuned_it(name: str, found: str) -> None:
    assert find_model(name).name == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("H100-SXM-80", "H100"),
        ("H100-NVL-94", "H100-NVL"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("A100-80", "A100-80"),
        ("a100-80gb", "A100-80"),
        ("A100-PCIe-80", "A100-80-PCIe"),
        ("A10", "A10"),
        ("A10G", "A10G"),
        ("NVIDIA-L4", "L4"),
        ("L40S", "L40S"),
        ("H200-SXM-141", "H200"),
    ],
)
def test_finds_a_gpu_as_it_is_written(name: str, found: str) -> None:
    assert find_gpu(name).name == found


@pytest.mark.parametrize(
    ("model", "gpu", "engine", "said"),
    [
        ("acme/none", "H100", Engine(), "nothing is known of the model 'acme/none'; known are"),
        ("Qwen/Qwen3-32B", "H1", Engine(), "nothing is known of the GPU 'H1'; known are"),
        ("Qwen/Qwen3-32B", "L4", Engine(), "does not fit on 1 x L4: its weights are 61 GiB, the memory 22 GiB; raise"),
        ("Qwen/Qwen3-32B", "H100", Engine(tensor_parallel=3), "64 attention heads, which 3 tensor parallel ranks"),
        ("Qwen/Qwen3-32B", "H100", Engine(quantization="fp2"), "no quantisation named 'fp2'; there are"),
        ("Qwen/Qwen3-32B", "H100", Engine(kv_cache_dtype="int4"), "no KV cache type named 'int4'; there are"),
    ],
)
def test_says_what_cannot_be_built(model: str, gpu: str, engine: Engine, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_replica_model(model, gpu, engine)


def test_an_eight_bit_cache_holds_twice_as_much() -> None:
    wide, narrow = (
        build_replica_model("Qwen/Qwen3-32B", "H100", Engine(tensor_parallel=2, kv_cache_dtype=dtype))
        for dtype in ("auto", "fp8")
    )

    assert narrow.kv_tokens == pytest.approx(2 * wide.kv_tokens, abs=2)
    assert wide.kv_tokens == pytest.approx(296_000, rel=0.01)


def test_smaller_weights_are_read_faster() -> None:
    widths = [
        build_replica_model("meta-llama/Llama-3.1-70B-Instruct", "B200", Engine(quantization=name)).weights_seconds
        for name in ("bf16", "fp8", "nvfp4")
    ]

    assert widths == sorted(widths, reverse=True)
