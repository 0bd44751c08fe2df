"""Replicas and scalers that are simple enough to reckon with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lull.core.simulation.fleet import View


@dataclass(frozen=True)
class Linear:
    """Every step takes `step`, and each token of context and of a prompt its time on top."""

    kv_tokens: int = 400_000
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    request_seconds: float = 0.0
    step: float = 0.01
    context: float = 1e-7
    prompt: float = 1 / 16_000
    attention: float = 1e-9

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        return self.step + self.context * context_tokens

    def mixed_step_seconds(
        self, *, prompt_tokens: float, before: float, batch: float, context_tokens: float
    ) -> float:
        read = prompt_tokens * (self.prompt + self.attention * (before + prompt_tokens / 2))
        return self.step + self.context * context_tokens + read


@dataclass
class Fixed:
    """Always so many replicas."""

    replicas: int
    tick: float = 1.0
    wakes: bool = True

    def scale(self, view: View) -> int:
        return self.replicas


@dataclass
class By:
    """Whatever a function says; what it saw is kept."""

    rule: Callable[[View], int]
    tick: float = 1.0
    wakes: bool = True
    seen: list[View] = field(default_factory=list)

    def scale(self, view: View) -> int:
        self.seen.append(view)
        return self.rule(view)
