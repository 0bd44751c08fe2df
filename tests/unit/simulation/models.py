"""Replicas and scalers that are simple enough to reckon with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lull.core.simulation.fleet import View
from lull.core.simulation.replica import ReplicaModel


def linear(
    *,
    kv_tokens: int = 400_000,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 2048,
    step: float = 0.01,
    context: float = 1e-7,
    token: float = 1 / 16_000,
    attention: float = 1e-9,
    request: float = 0.0,
) -> ReplicaModel:
    """Every step takes `step`, and each token that it reads or writes, and each token of context, its time on top."""
    return ReplicaModel(
        weights_seconds=0.0,
        token_seconds=token,
        kv_seconds=context,
        attention_seconds=attention,
        overhead_seconds=step,
        request_seconds=request,
        kv_tokens=kv_tokens,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
    )


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
