from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.core.sizing import Wishes, check_model, parse_wishes, valid_tensor_degrees

MODELS: dict[str, dict[str, Any]] = {
    model["id"]: model for model in json.loads((Path(__file__).parent / "models.json").read_text())["models"]
}
AWQ = {"quantization_config": {"quant_method": "awq", "group_size": 128, "bits": 4}}
FP8_BLOCKS = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
FP8_COMPRESSED = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"strategy": "block", "block_structure": [128, 128]}}},
    }
}


def config(name: str, **more: Any) -> dict[str, Any]:
    return {**MODELS[name]["config"], **more}


def only(sentences: tuple[str, ...]) -> str:
    (sentence,) = sentences
    return sentence


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_what_is_known_of_a_model(name: str) -> None:
    allowed = valid_tensor_degrees(config(name))

    assert [degree for degree in (1, 2, 4, 5, 8, 10, 16) if degree in allowed] == MODELS[name]["tensor"]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_allowed_is_not_refused_and_the_rest_is(name: str) -> None:
    allowed = valid_tensor_degrees(config(name))

    refused = [degree for degree in range(1, 65) if check_model(config(name), Wishes(tensor=degree))]

    assert refused == [degree for degree in range(1, 65) if degree not in allowed]


def test_heads_must_divide() -> None:
    assert only(check_model(config("meta-llama/Llama-3.1-8B-Instruct"), Wishes(tensor=3))) == (
        "spec.parallelism.tensor is 3, which does not divide the model's 32 attention heads: "
        "32 heads and 8 key-value heads allow 1, 2, 4, 8, 16, 32."
    )
    assert only(check_model(config("microsoft/phi-4"), Wishes(tensor=3))) == (
        "spec.parallelism.tensor is 3, which does not divide the model's 40 attention heads: "
        "40 heads and 10 key-value heads allow 1, 2, 5, 10, 20, 40."
    )


def test_key_value_heads_must_divide_or_be_repeated_whole() -> None:
    assert only(check_model(config("microsoft/phi-4"), Wishes(tensor=4))) == (
        "spec.parallelism.tensor is 4, which neither divides the model's 10 key-value heads nor is a multiple of them: "
        "40 heads and 10 key-value heads allow 1, 2, 5, 10, 20, 40."
    )
    assert check_model(config("google/gemma-3-1b-it"), Wishes(tensor=4)) == ()


def test_latent_attention_has_no_key_value_heads_to_divide() -> None:
    assert check_model(config("deepseek-ai/DeepSeek-V3", num_key_value_heads=1), Wishes(tensor=16)) == ()


def test_a_degree_must_not_cut_through_quantisation_groups() -> None:
    assert check_model(config("Qwen/Qwen2.5-72B-Instruct"), Wishes(tensor=8)) == ()
    assert only(check_model(config("Qwen/Qwen2.5-72B-Instruct", **AWQ), Wishes(tensor=8))) == (
        "spec.parallelism.tensor is 8, which cuts through the quantisation groups of 128: "
        "intermediate_size 29568 / 8 = 3696 is no multiple of 128; this model allows 1."
    )


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_groups_of_the_attention_count_too(method: str) -> None:
    quantised = {"quantization_config": {"quant_method": method, "group_size": 128}}

    sentence = only(check_model(config("Qwen/Qwen2.5-0.5B-Instruct", **quantised), Wishes(tensor=2)))

    assert "the attention's width 896 / 2 = 448 is no multiple of 128" in sentence


def test_one_scale_for_a_whole_channel_is_cut_by_nothing() -> None:
    channel = {"quantization_config": {"quant_method": "gptq", "group_size": -1}}

    assert check_model(config("Qwen/Qwen2.5-72B-Instruct", **channel), Wishes(tensor=8)) == ()


def test_layers_that_were_left_alone_have_no_groups() -> None:
    spared = {"quantization_config": {**AWQ["quantization_config"], "modules_to_not_convert": ["model.layers.0.mlp"]}}

    assert check_model(config("Qwen/Qwen2.5-72B-Instruct", **spared), Wishes(tensor=8)) == ()


def test_experts_are_divided_into_finer_blocks_as_far_as_kernels_go() -> None:
    large = "Qwen/Qwen3-235B-A22B"

    # 1536 / 8 = 192 = 3 * 64: vLLM 0.32 refines the blocks of 128; those of compressed-tensors it does not.
    assert check_model(config(large, **FP8_BLOCKS), Wishes(tensor=8)) == ()
    assert "moe_intermediate_size 1536 / 8 = 192" in only(
        check_model(config(large, **FP8_COMPRESSED), Wishes(tensor=8))
    )
    assert "moe_intermediate_size 1536 / 64 = 24" in only(
        check_model(config(large, **FP8_BLOCKS), Wishes(tensor=16, data=4))
    )


def test_whole_experts_on_a_rank_have_no_groups_to_cut() -> None:
    wishes = Wishes(tensor=8, data=8, expert=True)

    assert check_model(config("Qwen/Qwen3-235B-A22B", **FP8_COMPRESSED), wishes) == ()


def test_dense_layers_beside_experts_count() -> None:
    sentence = only(check_model(config("deepseek-ai/DeepSeek-V3", **FP8_BLOCKS), Wishes(tensor=32, expert=True)))

    assert "intermediate_size 18432 / 32 = 576 is no multiple of 128; this model allows 1, 2, 4, 8, 16." in sentence


def test_mxfp4_pads_what_does_not_fit() -> None:
    quantised = {"quantization_config": {"quant_method": "mxfp4"}}

    assert check_model(config("openai/gpt-oss-120b", **quantised), Wishes(tensor=8)) == ()


def test_each_stage_needs_a_layer() -> None:
    assert only(check_model(config("Qwen/Qwen2.5-0.5B-Instruct"), Wishes(pipeline=25))) == (
        "spec.parallelism.pipeline is 25, and the model has 24 layers: at most 24 stages have work."
    )


def test_only_experts_can_be_spread() -> None:
    sentence = only(check_model(config("Qwen/Qwen2.5-0.5B-Instruct"), Wishes(tensor=2, expert=True)))

    assert sentence == "spec.parallelism.expert is true, and the model has no experts: leave it out."
    assert check_model(config("Qwen/Qwen3-30B-A3B"), Wishes(tensor=4, expert=True)) == ()


@pytest.mark.parametrize(
    ("more", "limit"),
    [
        ({}, 32768),
        ({"rope_scaling": None}, 32768),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 131072),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, 65536),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 32768),
        ({"rope_parameters": {"full": {"rope_type": "linear", "factor": 8.0}, "sliding": {}}}, 262144),
        # As vLLM 0.32 reads them: max_position_embeddings is that of the scaled context already.
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 32768),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 32768),
        ({"rope_scaling": {"type": "longrope", "factor": 8.0}}, 32768),
        ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 32768),
        ({"model_max_length": 65536}, 65536),
        ({"seq_length": 8192}, 8192),
    ],
)
def test_knows_the_longest_context(more: dict[str, Any], limit: int) -> None:
    model = config("Qwen/Qwen2.5-7B-Instruct", **more)

    assert check_model(model, Wishes(max_model_len=limit)) == ()
    assert only(check_model(model, Wishes(max_model_len=limit + 1))) == (
        f"spec.engine.maxModelLen is {limit + 1}, and the model's context is {limit} tokens: "
        f"set it to at most {limit}, or leave it out."
    )


@pytest.mark.parametrize(
    ("asked", "found", "is_refused"),
    [
        ("awq", "awq", False),
        ("awq_marlin", "awq", False),
        ("gptq_marlin", "gptq", False),
        ("auto_gptq", "gptq", False),
        ("modelopt_fp4", "modelopt", False),
        ("humming", "awq", False),
        ("fp8", "FP8", False),
        ("awq", "gptq", True),
        ("fp8", "compressed-tensors", True),
        ("fp8", "awq", True),
    ],
)
def test_quantisation_cannot_be_another_than_the_weights(asked: str, found: str, *, is_refused: bool) -> None:
    model = config("Qwen/Qwen2.5-7B-Instruct", quantization_config={"quant_method": found})

    assert bool(check_model(model, Wishes(quantization=asked))) is is_refused


def test_weights_that_are_not_quantised_may_become_so() -> None:
    assert check_model(config("Qwen/Qwen2.5-7B-Instruct"), Wishes(quantization="fp8")) == ()


def test_reads_the_language_model_inside_a_multimodal_one() -> None:
    text = config("google/gemma-3-4b-it")
    model = {"model_type": "gemma3", "vision_config": {"num_attention_heads": 7}, "text_config": text}
    nested = {"thinker_config": {"text_config": text}, "quantization_config": {"quant_method": "gptq"}}

    assert valid_tensor_degrees(model) == (1, 2, 4, 8)
    assert valid_tensor_degrees(nested) == (1, 2, 4, 8)
    assert len(check_model(nested, Wishes(tensor=3, quantization="awq"))) == 2


@pytest.mark.parametrize(
    ("model", "degree"),
    [
        ({"num_attention_heads": 71, "multi_query": True}, 71),
        ({"num_attention_heads": 128, "n_head_kv": 8, "new_decoder_architecture": True, "multi_query": True}, 64),
        ({"n_heads": 48, "attn_config": {"kv_n_heads": 8}}, 16),
        ({"num_attention_heads": 32, "multi_query_group_num": 2}, 4),
    ],
)
def test_reads_other_families_names(model: dict[str, Any], degree: int) -> None:
    assert check_model(model, Wishes(tensor=degree)) == ()
    assert check_model(model, Wishes(tensor=degree + 1)) != ()


def test_several_contradictions_are_all_said() -> None:
    wishes = Wishes(tensor=3, pipeline=99, expert=True, max_model_len=10**6, quantization="gptq")

    fields = [sentence.split()[0] for sentence in check_model(config("microsoft/phi-4", **AWQ), wishes)]

    assert fields == [
        *("spec.parallelism.tensor", "spec.parallelism.pipeline", "spec.parallelism.expert"),
        *("spec.engine.maxModelLen", "spec.engine.quantization"),
    ]


def test_what_is_not_said_is_no_reason_to_refuse() -> None:
    wishes = Wishes(tensor=7, pipeline=99, expert=True, max_model_len=10**9, quantization="awq")

    assert check_model({}, wishes) == ()


NAMES = st.sampled_from(
    [
        *("num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim", "intermediate_size", "num_experts"),
        *("text_config", "quantization_config", "quant_method", "group_size", "weight_block_size", "config_groups"),
        *("weights", "strategy", "rope_scaling", "factor", "max_position_embeddings", "attn_config", "kv_lora_rank"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 200) | st.floats(allow_nan=True) | st.sampled_from(["awq", "fp8", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES), st.integers(1, 9), st.integers(1, 3))
def test_no_config_breaks_the_check(model: dict[str, Any], tensor: int, data: int) -> None:
    wishes = Wishes(tensor=tensor, data=data, max_model_len=4096, quantization="awq")

    assert all(sentence.startswith("spec.") and sentence.endswith(".") for sentence in check_model(model, wishes))


def test_reads_wishes() -> None:
    text = (
        '{"tensorParallel": 2, "pipelineParallel": 3, "dataParallel": 4, "expertParallel": true, '
        '"maxModelLen": 8192, "quantization": "awq"}'
    )

    assert parse_wishes(text) == Wishes(2, 3, 4, expert=True, max_model_len=8192, quantization="awq")
    assert parse_wishes('{"maxModelLen": null, "quantization": null}') == Wishes()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"tensorParallel": 0}', '{"dataParallel": "2"}', '{"maxModelLen": -1}', '{"quantization": 4}']
)
def test_refuses_wishes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_wishes(text)
