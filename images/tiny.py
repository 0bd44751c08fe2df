"""Makes a tiny Llama with random weights, and LoRA adapters for it, that vLLM serves without a network.

`python tiny.py FOLDER` writes FOLDER/model, two adapters that fit (lora-a, lora-b) and three that vLLM refuses
(lora-r64: rank too high, lora-badshape: wrong hidden size, lora-badmodule: a module that the model lacks). It needs
numpy, safetensors and tokenizers only, and the same arguments give the same bytes.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

_Tensors = dict[str, NDArray[np.float32]]

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = """The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs.
A Kubernetes operator watches custom resources and drives the cluster toward the wanted state.
vLLM serves large language models with paged attention, continuous batching and prefix caching.
system user assistant You are a helpful assistant. Hello, how are you? Tell me a story about a robot.
def main(): print("hello world")  {"name": "value", "list": [1, 2, 3]}  0 1 2 3 4 5 6 7 8 9
GET /v1/models POST /v1/chat/completions 200 404 503 temperature max_tokens stream true false null
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model; two key-value heads and four layers, so that it can be split by two either way."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 256
    vocabulary: int = 1024
    positions: int = 8192

    @property
    def head(self) -> int:
        # 32 is the smallest head that vLLM's attention on CPU takes.
        return self.hidden // self.heads


def make_model(folder: Path, shape: Shape = Shape(), seed: int = 7) -> Path:  # frozen
    """Write the model and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    known = _write_tokenizer(folder, shape)
    identifiers = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3}
    _write_json(folder / "config.json", {**_config(shape), **identifiers})
    _write_json(folder / "generation_config.json", identifiers)
    weights = _weights(shape, known, np.random.default_rng(seed))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_adapters(folder: Path, shape: Shape = Shape()) -> None:  # frozen
    """Write the adapters, good and bad."""
    _write_adapter(folder / "lora-a", shape, rank=8, seed=101)
    _write_adapter(folder / "lora-b", shape, rank=8, seed=102)
    _write_adapter(folder / "lora-r64", shape, rank=64, seed=103)
    _write_adapter(folder / "lora-badshape", shape, rank=8, seed=104, hidden=2 * shape.hidden)
    _write_adapter(folder / "lora-badmodule", shape, rank=8, seed=105, targets=("nope_proj",))


def _write_tokenizer(folder: Path, shape: Shape) -> int:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=_SPECIAL,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_CORPUS.splitlines() * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "bos_token": "<|endoftext|>"}
    _write_json(folder / "special_tokens_map.json", names)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.positions,
            "clean_up_tokenization_spaces": False,
            "chat_template": _CHAT_TEMPLATE,
            **names,
        },
    )
    return int(tokenizer.get_vocab_size())


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        "use_cache": True,
    }


def _weights(shape: Shape, known: int, random: np.random.Generator) -> _Tensors:
    def tensor(*size: int, deviation: float = 0.05) -> NDArray[np.float32]:
        return (random.standard_normal(size) * deviation).astype(np.float32)

    hidden, queries, keys = shape.hidden, shape.heads * shape.head, shape.kv_heads * shape.head
    weights: _Tensors = {
        "model.embed_tokens.weight": tensor(shape.vocabulary, hidden, deviation=1.0),
        "model.norm.weight": np.ones(hidden, np.float32),
        "lm_head.weight": tensor(shape.vocabulary, hidden, deviation=0.3),
    }
    # Special tokens are hardly ever picked, and numbers that the tokenizer lacks neither.
    weights["lm_head.weight"][: len(_SPECIAL)] = 0
    weights["lm_head.weight"][known:] = 0
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        weights |= {
            f"{prefix}input_layernorm.weight": np.ones(hidden, np.float32),
            f"{prefix}post_attention_layernorm.weight": np.ones(hidden, np.float32),
            f"{prefix}self_attn.q_proj.weight": tensor(queries, hidden),
            f"{prefix}self_attn.k_proj.weight": tensor(keys, hidden),
            f"{prefix}self_attn.v_proj.weight": tensor(keys, hidden),
            f"{prefix}self_attn.o_proj.weight": tensor(hidden, queries),
            f"{prefix}mlp.gate_proj.weight": tensor(shape.intermediate, hidden),
            f"{prefix}mlp.up_proj.weight": tensor(shape.intermediate, hidden),
            f"{prefix}mlp.down_proj.weight": tensor(hidden, shape.intermediate),
        }
    return weights


def _write_adapter(
    folder: Path,
    shape: Shape,
    *,
    rank: int,
    seed: int,
    hidden: int | None = None,
    targets: tuple[str, ...] = ("q_proj", "v_proj"),
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    outputs = {"q_proj": shape.heads * shape.head, "v_proj": shape.kv_heads * shape.head, "nope_proj": shape.hidden}
    tensors: _Tensors = {}
    for layer in range(shape.layers):
        for target in targets:
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{target}."
            for name, size in (("lora_A", (rank, hidden or shape.hidden)), ("lora_B", (outputs[target], rank))):
                tensors[f"{prefix}{name}.weight"] = (random.standard_normal(size) * 0.2).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "tiny",
            "r": rank,
            "lora_alpha": 2 * rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "target_modules": list(targets),
            "inference_mode": True,
            "modules_to_save": None,
            "use_rslora": False,
            "use_dora": False,
        },
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a tiny model and LoRA adapters for it.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    make_model(folder / "model")
    make_adapters(folder)


if __name__ == "__main__":
    main()
