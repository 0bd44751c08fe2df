"""What was asked of a service once: arrivals, lengths, and which blocks of 512 tokens prompts have in common."""

from __future__ import annotations

import csv
import gzip
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER: Final = Path(__file__).parents[1] / "data"
CONVERSATION: Final = "mooncake_fast25_conversation_prefix.csv.gz"
"""Kimi's conversations. All begin with the same block, and 37 % of the tokens were in an earlier prompt."""
PLAIN: Final = "azure2023_conv.csv.gz"
"""Azure's conversations. What they have in common was not published: taken as nothing, each has blocks of its own."""
BLOCK_TOKENS: Final = 512
TICK: Final = 3.0
"""Seconds between the times that Mooncake's trace knows; within them requests are spread at random."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request."""

    at: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


def read_trace(name: str, *, count: int | None = None) -> list[Arrival]:
    """The first so many requests of a trace, all of them without a count."""
    with gzip.open(FOLDER / name, "rt") as lines:
        rows = [row for _, row in zip(range(count or 10**9), csv.DictReader(lines), strict=False)]
    noise = random.Random(1)
    arrivals = []
    for number, row in enumerate(rows):
        at, prompt_tokens = float(row["timestamp_s"]), int(row["input_tokens"])
        if "block512_hash_ids" in row:
            at += noise.random() * TICK
            blocks = tuple(int(block) for block in row["block512_hash_ids"].split())
        else:
            blocks = tuple((number << 16) + place for place in range(prompt_tokens // BLOCK_TOKENS))
        arrivals.append(Arrival(at, prompt_tokens, int(row["output_tokens"]), blocks))
    return sorted(arrivals, key=lambda arrival: arrival.at)


def offered(arrivals: Sequence[Arrival]) -> float:
    """Prompt tokens that arrive in a second."""
    return sum(arrival.prompt_tokens for arrival in arrivals) / (arrivals[-1].at - arrivals[0].at)


def rescale(arrivals: Sequence[Arrival], *, rate: float) -> list[Arrival]:
    """The same requests in the same order, faster or slower, so that so many prompt tokens arrive in a second."""
    factor = offered(arrivals) / rate
    return [
        Arrival(arrival.at * factor, arrival.prompt_tokens, arrival.output_tokens, arrival.blocks)
        for arrival in arrivals
    ]
