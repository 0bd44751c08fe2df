"""Whether a model can be served as asked, told from its config.json before its weights are fetched. Pure.

These are the rules by which vLLM 0.32 refuses to start, and which it would find minutes later, after the weights have
been fetched: heads that do not divide, quantisation groups that a degree cuts through, a context longer than the
model's. What a config.json does not say is no reason to refuse it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Config = Mapping[str, Any]

# A stranger's config.json may name any number.
_MOST_DEGREES: Final = 1024
# The finest that vLLM divides the blocks and groups of experts into, where a degree cuts through them.
_FINEST_EXPERT_GROUP: Final = 32
_SAME_QUANTIZATION: Final = (
    frozenset({"awq", "awq_marlin", "auto_awq", "marlin", "moe_wna16"}),
    frozenset({"gptq", "gptq_marlin", "auto_gptq", "marlin", "moe_wna16"}),
    frozenset({"modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "mxfp8"}),
    frozenset({"mxfp4", "gpt_oss_mxfp4"}),
    frozenset({"fp8", "deepseek_v4_fp8"}),
)
# These quantise, or run, what has been quantised in another way.
_ADAPTABLE: Final = frozenset({"humming", "inc"})
_LENGTHS: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Models whose max_position_embeddings is that of the scaled context already.
_SCALED_ALREADY: Final = frozenset(
    {"default", "mrope", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an LLMDeployment asks of a model."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: bool = False
    max_model_len: int | None = None
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class _Width:
    """A dimension that a degree of parallelism divides while its weights are quantised in groups."""

    what: str
    size: int
    degree: int
    is_refinable: bool


def parse_wishes(text: str) -> Wishes:
    """Read the JSON of `lull fetch --check`; ValueError where it is none."""
    answer = json.loads(text)
    if not isinstance(answer, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  one kind of error for one kind of mistake
    expected = ("tensorParallel", "pipelineParallel", "dataParallel")
    for name in expected:
        if not _is_count(answer.get(name, 1)):
            raise ValueError(f"{name} is not a number from 1")
    length, quantization = answer.get("maxModelLen"), answer.get("quantization")
    if length is not None and not _is_count(length):
        raise ValueError("maxModelLen is not a number from 1")
    if quantization is not None and not isinstance(quantization, str):
        raise ValueError("quantization is not a string")
    tensor, pipeline, data = (answer.get(name, 1) for name in expected)
    return Wishes(tensor, pipeline, data, answer.get("expertParallel") is True, length, quantization)


def check_model(config: Config, wishes: Wishes) -> tuple[str, ...]:
    """Say in sentences what of a model's config.json rules out what is asked for; nothing where all may be well."""
    text = _text_config(config)
    return tuple(
        sentence
        for sentence in (
            _check_tensor(config, text, wishes),
            _check_pipeline(text, wishes),
            _check_expert(text, wishes),
            _check_length(config, text, wishes),
            _check_quantization(config, wishes),
        )
        if sentence is not None
    )


def valid_tensor_degrees(config: Config, wishes: Wishes | None = None) -> tuple[int, ...]:
    """List the tensor parallel degrees that a model allows; empty where its config.json does not say."""
    text = _text_config(config)
    heads = _first(text, "num_attention_heads", "n_head", "n_heads")
    asked = wishes or Wishes()
    return tuple(
        degree
        for degree in range(1, min(heads or 0, _MOST_DEGREES) + 1)
        if _fits(config, text, asked, heads=heads or 0, degree=degree)
    )


def _check_tensor(config: Config, text: Config, wishes: Wishes) -> str | None:
    heads = _first(text, "num_attention_heads", "n_head", "n_heads")
    if heads is None or _fits(config, text, wishes, heads=heads, degree=wishes.tensor):
        return None
    kv_heads = _kv_heads(text, heads)
    allowed = _join(valid_tensor_degrees(config, wishes))
    asked = f"spec.parallelism.tensor is {wishes.tensor}"
    if heads % wishes.tensor:
        return f"{asked}, which does not divide the model's {heads} attention heads: {_heads(heads, kv_heads)} allow {allowed}."
    if not _divides_kv(kv_heads, wishes.tensor):
        return (
            f"{asked}, which neither divides the model's {kv_heads} key-value heads nor is a multiple of them: "
            f"{_heads(heads, kv_heads)} allow {allowed}."
        )
    group, width = next(_cut_groups(config, text, wishes, degree=wishes.tensor))
    part = width.size // width.degree if width.size % width.degree == 0 else round(width.size / width.degree, 2)
    return (
        f"{asked}, which cuts through the quantisation groups of {group}: "
        f"{width.what} {width.size} / {width.degree} = {part} is no multiple of {group}; this model allows {allowed}."
    )


def _check_pipeline(text: Config, wishes: Wishes) -> str | None:
    layers = _first(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if layers is None or wishes.pipeline <= layers:
        return None
    return f"spec.parallelism.pipeline is {wishes.pipeline}, and the model has {layers} layers: at most {layers} stages have work."


def _check_expert(text: Config, wishes: Wishes) -> str | None:
    # A config.json that does not even name its heads leaves everything open.
    if (
        not wishes.expert
        or _experts(text) > 0
        or _first(text, "num_attention_heads") is None
        or "block_configs" in text
    ):
        return None
    return "spec.parallelism.expert is true, and the model has no experts: leave it out."


def _check_length(config: Config, text: Config, wishes: Wishes) -> str | None:
    if wishes.max_model_len is None or (limit := _context(config, text)) is None or wishes.max_model_len <= limit:
        return None
    return (
        f"spec.engine.maxModelLen is {wishes.max_model_len}, and the model's context is {limit} tokens: "
        f"set it to at most {limit}, or leave it out."
    )


def _check_quantization(config: Config, wishes: Wishes) -> str | None:
    asked, found = wishes.quantization, _quantization(config).get("quant_method")
    if asked is None or not isinstance(found, str) or not found:
        return None
    found = found.lower()
    is_same = asked == found or any({asked, found} <= same for same in _SAME_QUANTIZATION)
    if is_same or {asked, found} & _ADAPTABLE:
        return None
    return (
        f"spec.engine.quantization is {asked}, and the model's weights are quantised with {found}: "
        "leave it out, and the engine reads the method from the model."
    )


def _fits(config: Config, text: Config, wishes: Wishes, *, heads: int, degree: int) -> bool:
    return (
        heads % degree == 0
        and _divides_kv(_kv_heads(text, heads), degree)
        and next(_cut_groups(config, text, wishes, degree=degree), None) is None
    )


def _divides_kv(kv_heads: int, degree: int) -> bool:
    """Whether each rank gets whole key-value heads, or each head a whole number of ranks."""
    return kv_heads % degree == 0 if kv_heads >= degree else degree % kv_heads == 0


def _kv_heads(text: Config, heads: int) -> int:
    """Count key-value heads; latent attention keeps one latent for all heads, which every rank holds."""
    if _first(text, "kv_lora_rank") is not None:
        return heads
    if text.get("multi_query") is True and text.get("new_decoder_architecture") is not True:
        return 1
    found = _first(
        text, "n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups"
    )
    nested = text.get("attn_config")
    return found or (_first(nested, "kv_n_heads") if isinstance(nested, dict) else None) or heads


def _cut_groups(config: Config, text: Config, wishes: Wishes, *, degree: int) -> Iterator[tuple[int, _Width]]:
    """Name the quantised dimensions whose groups a tensor parallel degree cuts through."""
    quantization = _quantization(config)
    group = _group(quantization)
    if degree == 1 or group is None:
        return
    # compressed-tensors has no finer kernels for experts.
    is_refinable = quantization.get("quant_method") != "compressed-tensors"
    for width in _widths(text, quantization, wishes, degree=degree, is_refinable=is_refinable):
        step = group
        while width.is_refinable and step > _FINEST_EXPERT_GROUP and width.size % (width.degree * step):
            step //= 2
        if width.size % (width.degree * step):
            yield group, width


def _widths(text: Config, quantization: Config, wishes: Wishes, *, degree: int, is_refinable: bool) -> Iterator[_Width]:
    heads = _first(text, "num_attention_heads")
    head_dim = _first(text, "head_dim")
    hidden, intermediate = _first(text, "hidden_size"), _first(text, "intermediate_size")
    if heads is not None and _first(text, "kv_lora_rank") is None:
        attention = heads * head_dim if head_dim is not None else hidden
        if attention is not None and not _is_skipped(quantization, "self_attn", "o_proj", "attn"):
            yield _Width("the attention's width", attention, degree, is_refinable=False)
    if _is_skipped(quantization, "mlp", "experts", "down_proj", "gate_proj", "up_proj", "gate_up_proj"):
        return
    if _experts(text) < 2:
        if intermediate is not None:
            yield _Width("intermediate_size", intermediate, degree, is_refinable=False)
        return
    expert = _first(text, "moe_intermediate_size")
    has_dense_layers = (
        (_first(text, "first_k_dense_replace") or 0) > 0
        or bool(text.get("mlp_only_layers"))
        or (_first(text, "decoder_sparse_step") or 1) > 1
    )
    if expert is not None and intermediate is not None and has_dense_layers:
        yield _Width("intermediate_size", intermediate, degree, is_refinable=False)
    if (width := expert or intermediate) is not None and not wishes.expert:
        # Without expert parallelism vLLM spreads each expert over the data parallel ranks as well.
        name = "moe_intermediate_size" if expert is not None else "intermediate_size"
        yield _Width(name, width, degree * wishes.data, is_refinable)


def _group(quantization: Config) -> int | None:
    """Find how many weights share a scale along the dimension that tensor parallelism divides; None for all of them."""
    method = quantization.get("quant_method")
    if method in {"awq", "gptq"}:
        return _positive(quantization.get("group_size", quantization.get("q_group_size")))
    if method == "fp8":
        return _block(quantization.get("weight_block_size"))
    if method == "compressed-tensors":
        groups = quantization.get("config_groups")
        schemes = [group.get("weights") for group in groups.values()] if isinstance(groups, dict) else []
        found = [
            _block(scheme.get("block_structure"))
            if scheme.get("strategy") == "block"
            else _positive(scheme.get("group_size"))
            for scheme in schemes
            if isinstance(scheme, dict) and scheme.get("strategy") in {"block", "group"}
        ]
        return found[0] if len(found) == 1 else None
    return None


def _is_skipped(quantization: Config, *modules: str) -> bool:
    """Whether layers of this kind may have been left as they were."""
    listed = quantization.get("modules_to_not_convert") or quantization.get("ignore") or []
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    return any(re.search(rf"(^|\.){module}$", name) for name in names for module in modules)


def _context(config: Config, text: Config) -> int | None:
    """Derive the longest context, as vLLM does."""
    lengths = [length for key in _LENGTHS if (length := _first(text, key)) is not None]
    if not lengths:
        return None
    limit = float(_first(text, "model_max_length") or min(lengths))
    if "gemma3" not in str(config.get("model_type", "")):
        limit *= _rope_factor(text)
    return max(int(limit), _first(config, "model_max_length") or 0)


def _rope_factor(text: Config) -> float:
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, dict):
        return 1.0
    # One for all layers, or one for each kind of layer.
    kinds = [rope] if not all(isinstance(value, dict) for value in rope.values()) else list(rope.values())
    factor = 1.0
    for kind in kinds:
        scale = kind.get("factor")
        name = str(kind.get("rope_type") or kind.get("type") or "default")
        if name not in _SCALED_ALREADY and isinstance(scale, int | float) and scale > 0:
            factor = float(scale)
    return factor


def _quantization(config: Config) -> Config:
    found = config.get("quantization_config") or _text_config(config).get("quantization_config")
    found = found or config.get("compression_config")
    return found if isinstance(found, dict) else {}


def _text_config(config: Config) -> Config:
    """The language model's part of a config.json; the whole where there is no such part."""
    for name in ("text_config", "llm_config", "language_config", "thinker_config"):
        nested = config.get(name)
        if isinstance(nested, dict):
            inner = _text_config(nested)
            return inner if _first(inner, "num_attention_heads") is not None else config
    return config


def _experts(text: Config) -> int:
    return _first(text, "num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts") or 0


def _heads(heads: int, kv_heads: int) -> str:
    return f"{heads} heads" if kv_heads == heads else f"{heads} heads and {kv_heads} key-value heads"


def _join(degrees: tuple[int, ...]) -> str:
    return ", ".join(map(str, degrees))


def _first(config: Config, *names: str) -> int | None:
    return next((found for name in names if (found := _positive(config.get(name))) is not None), None)


def _block(value: object) -> int | None:
    """The length of a block along the divided dimension; blocks that are not square are left to the engine."""
    sides = {side for side in value if _is_count(side)} if isinstance(value, list) else set()
    return int(next(iter(sides))) if len(sides) == 1 else None


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and _is_count(value) else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
