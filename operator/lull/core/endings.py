"""What an engine said last, as a reason with advice: vLLM names the flag, a user needs the field."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lull.api.reasons import Reason
from lull.core.manifests.refusals import OWNED_FLAGS

_LOOKED_THROUGH: Final = 900
"""Characters from the end in which an engine is believed to name its own end; before them may be a help text."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an engine ended, as far as its words tell."""

    reason: Reason
    advice: str = ""
    """What to do; empty where the reason's own remedy says it all."""
    words: str = ""
    """The lines that tell the reason: others may have come after them."""


_MORE_ROOM: Final = "spread the model over more accelerators (spec.parallelism.tensor) or quantize it"
_ENDINGS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), Ending(reason, advice))
    for pattern, reason, advice in (
        (
            r"estimated maximum model length is (\d+)",
            Reason.ENGINE_OUT_OF_MEMORY,
            f"Set spec.engine.maxModelLen to {{0}} or less, or {_MORE_ROOM}.",
        ),
        (
            r"max(?:imum)? (?:seq|model) len.{0,200}(?:KV cache|gpu_memory_utilization)",
            Reason.ENGINE_OUT_OF_MEMORY,
            f"Lower spec.engine.maxModelLen, raise spec.engine.gpuMemoryUtilization, or {_MORE_ROOM}.",
        ),
        (
            r"no available memory for the cache blocks",
            Reason.ENGINE_OUT_OF_MEMORY,
            f"The weights leave no room for the KV cache: raise spec.engine.gpuMemoryUtilization, or {_MORE_ROOM}.",
        ),
        (
            r"free memory on device.{0,200}less than desired",
            Reason.ENGINE_OUT_OF_MEMORY,
            "Something else uses the accelerator: free it, or lower spec.engine.gpuMemoryUtilization.",
        ),
        (
            r"(?:/dev/shm|shm_open|psm_).{0,200}no space left|no space left.{0,200}(?:/dev/shm|psm_)|bus error",
            Reason.ENGINE_OUT_OF_MEMORY,
            "Raise spec.resources.sharedMemory.",
        ),
        (
            r"out of memory|OutOfMemoryError|RESOURCE_EXHAUSTED",
            Reason.ENGINE_OUT_OF_MEMORY,
            (
                "Lower spec.engine.maxModelLen, spec.engine.maxNumSeqs or spec.engine.gpuMemoryUtilization, "
                f"or {_MORE_ROOM}."
            ),
        ),
        (
            r"max_model_len.{0,200}greater than the derived",
            Reason.ENGINE_ARGUMENT_INVALID,
            "Lower spec.engine.maxModelLen: the model does not take more.",
        ),
        (
            r"trust_remote_code=True",
            Reason.ENGINE_ARGUMENT_INVALID,
            "Set spec.model.trustRemoteCode, if you trust the model's source as you trust the image.",
        ),
        (r"validation errors? for \w+", Reason.ENGINE_ARGUMENT_INVALID, ""),
    )
)
_ARGPARSE: Final = re.compile(
    r"error: (?:argument (?P<flag>--[\w-]+)|unrecognized arguments: (?P<unknown>--[\w-]+)|ambiguous option|"
    r"the following arguments are required)"
)
_FIELD: Final = re.compile(r"spec\.[\w.]+")


def judge_ending(message: str) -> Ending | None:
    """Why an engine ended, where its last words are known ones."""
    words = message.strip()[-_LOOKED_THROUGH:]
    usage = _ARGPARSE.search(words)
    if usage is not None:
        return Ending(Reason.ENGINE_ARGUMENT_INVALID, _advise_flag(usage["flag"] or usage["unknown"]))
    for pattern, ending in _ENDINGS:
        found = pattern.search(words)
        if found is not None:
            return Ending(ending.reason, ending.advice.format(*found.groups()), _find_lines(words, found))
    return None


def _find_lines(words: str, found: re.Match[str]) -> str:
    end = words.find("\n", found.end())
    return words[words.rfind("\n", 0, found.start()) + 1 : end if end >= 0 else len(words)]


def _advise_flag(flag: str | None) -> str:
    """The field that sets a flag; a flag that no field sets stands in extraArgs."""
    field = _FIELD.search(OWNED_FLAGS.get(flag, "")) if flag is not None else None
    if field is None:
        named = f" {flag}" if flag is not None else ""
        return f"Correct{named} in spec.engine.extraArgs, or use an engine image that knows it (spec.engine.image)."
    return f"Correct {field[0]}, which sets {flag}."
