"""The words are those of vLLM 0.32 and of argparse."""

from __future__ import annotations

import pytest

from lull.api.reasons import Reason
from lull.core.endings import judge_ending


@pytest.mark.parametrize(
    ("words", "reason", "advice"),
    [
        (
            (
                "ValueError: To serve at least one request with the models's max seq len (32768), (4.00 GiB KV cache is "
                "needed, which is larger than the available KV cache memory (2.10 GiB). Based on the available memory, the "
                "estimated maximum model length is 17200. Try increasing `gpu_memory_utilization` or decreasing "
                "`max_model_len` when initializing the engine."
            ),
            Reason.ENGINE_OUT_OF_MEMORY,
            "spec.engine.maxModelLen to 17200",
        ),
        (
            (
                "ValueError: The model's max seq len (8192) is larger than the maximum number of tokens that can be stored "
                "in KV cache (4096). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
            ),
            Reason.ENGINE_OUT_OF_MEMORY,
            "spec.engine.maxModelLen",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.",
            Reason.ENGINE_OUT_OF_MEMORY,
            "spec.engine.gpuMemoryUtilization",
        ),
        (
            (
                "ValueError: Free memory on device cuda:0 (10.2/22.0 GiB) on startup is less than desired GPU memory "
                "utilization (0.92, 20.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by others."
            ),
            Reason.ENGINE_OUT_OF_MEMORY,
            "lower spec.engine.gpuMemoryUtilization",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            Reason.ENGINE_OUT_OF_MEMORY,
            "spec.parallelism.tensor",
        ),
        (
            "OSError: [Errno 28] No space left on device: '/psm_1f2e3d4c'",
            Reason.ENGINE_OUT_OF_MEMORY,
            "spec.resources.sharedMemory",
        ),
        (
            "vllm serve: error: argument --dtype/-d: invalid choice: 'int3'",
            Reason.ENGINE_ARGUMENT_INVALID,
            "spec.engine.dtype",
        ),
        (
            "vllm: error: unrecognized arguments: --no-such-flag",
            Reason.ENGINE_ARGUMENT_INVALID,
            "--no-such-flag in spec.engine.extraArgs",
        ),
        ("vllm: error: ambiguous option: --max", Reason.ENGINE_ARGUMENT_INVALID, "spec.engine.extraArgs"),
        (
            (
                "ValidationError: 1 validation error for ModelConfig\n  Value error, User-specified max_model_len (999999) "
                "is greater than the derived max_model_len (max_position_embeddings=8192.0 or model_max_length=None)"
            ),
            Reason.ENGINE_ARGUMENT_INVALID,
            "spec.engine.maxModelLen",
        ),
        (
            (
                "ValidationError: 1 validation error for VllmConfig\n  Value error, Total number of attention heads (4) "
                "must be divisible by tensor parallel size (3)."
            ),
            Reason.ENGINE_ARGUMENT_INVALID,
            "",
        ),
        (
            "ValueError: The repository org/model contains custom code. Please pass `trust_remote_code=True`.",
            Reason.ENGINE_ARGUMENT_INVALID,
            "spec.model.trustRemoteCode",
        ),
    ],
)
def test_names_the_field_for_what_vllm_names_otherwise(words: str, reason: Reason, advice: str) -> None:
    ending = judge_ending(f"Traceback (most recent call last):\n  File …\n{words}\n")

    assert ending is not None
    assert ending.reason is reason
    assert advice in ending.advice


def test_takes_no_word_out_of_a_help_text_that_ends_otherwise() -> None:
    help_text = "--swap-space: use it when you run out of memory\n" + 1200 * "x"

    assert judge_ending(f"{help_text}\nRuntimeError: Engine core initialization failed.") is None


def test_unknown_words_are_nobodys() -> None:
    assert judge_ending("Segmentation fault") is None


def test_says_which_words_told_it() -> None:
    telling = "ValueError: No available memory for the cache blocks."

    ending = judge_ending(f"Traceback:\n{telling}\nERROR: Worker proc died unexpectedly, shutting down.\n")

    assert ending is not None
    assert ending.words == telling
