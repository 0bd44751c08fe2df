"""A simulated engine: vLLM as far as routing matters, between one event and the next by formula.

Prompts are read one after the other, all running sequences write a token with every step, and a step that also reads
takes longer. The memory holds blocks of 512 tokens: those in use stay, the others go when room is needed, those first
that were used longest ago. Numbers are of a 32B model on two H100:

- 15,928 prompt tokens/s in steps of 8,192: llm-d, `slo-aware/benchmark-templates`, Qwen3-32B TP2;
- a step without a prompt takes 14.6 ms and 0.0475 ms more for each sequence: Yi-34B TP2 under vLLM 0.15.1 with 9.5 and
  with 23.6 sequences (points blist-018 and -019 of inference-sim's calibration);
- room for 547 blocks: two times 80 GB, 92 % of it used, less 65.5 GB of weights and 8.3 GB of working space, at
  262,144 bytes a token (Qwen3-32B: 64 layers, 8 KV heads of 128, 16 bit).
- room for 4,096 blocks more with `spec.engine.kvOffload`: 512 GiB of host memory besides, taken as no slower.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.routing.trace import BLOCK_TOKENS

if TYPE_CHECKING:
    from bench.routing.trace import Arrival

PROMPT_RATE: Final = 15_928.0
CHUNK: Final = 8192
STEP: Final = 0.0146
STEP_EACH: Final = 0.0000475
ROOM: Final = 547
ROOM_WITH_OFFLOAD: Final = 547 + 4096
MAX_RUNNING: Final = 256
"""vLLM's max_num_seqs."""


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way."""

    number: int
    arrival: Arrival
    gateway: int
    engine: int = -1
    cached: int = 0
    """Tokens that its engine had."""
    first_byte_at: float = 0.0
    held: list[int] = field(default_factory=list)
    """Blocks of the engine's memory that it uses."""

    def __lt__(self, other: Job) -> bool:
        return self.number < other.number


class Engine:
    """One engine; `advance` to a time before anything else is done at that time."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._now = 0.0
        self._waiting: deque[Job] = deque()
        self._reading: Job | None = None
        self._unread = 0.0
        self._chunk = 1.0
        """Tokens of the prompt in each step."""
        self._written = 0.0
        """Tokens that a sequence which ran all the time would have written."""
        self._running: list[tuple[float, Job]] = []
        """By the point at which each is done."""
        self._used: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self.read = 0
        """Prompt tokens that it had to read."""

    def count_cached(self, arrival: Arrival) -> int:
        """Tokens of a prompt that it need not read; the last one it always must."""
        count = 0
        for block in arrival.blocks:
            if block not in self._used and block not in self._idle:
                break
            count += 1
        return min(count * BLOCK_TOKENS, arrival.prompt_tokens - 1)

    def count_unread(self) -> float:
        """Prompt tokens that it has yet to read, if it had to read now what waits."""
        waiting = sum(job.arrival.prompt_tokens - self.count_cached(job.arrival) for job in self._waiting)
        return waiting + self._unread

    def add(self, job: Job) -> None:
        """Take a request on."""
        self._waiting.append(job)
        self._begin()

    def next_at(self) -> float:
        """When something happens here next if nothing arrives."""
        at = float("inf")
        if self._reading is not None:
            at = self._now + self._unread / self._prompt_rate()
        if self._running:
            at = min(at, self._now + (self._running[0][0] - self._written) / self._write_rate())
        return at

    def advance(self, now: float) -> tuple[list[Job], list[Job]]:
        """Go on to a time not after the next event: who got a first byte at it, and who is done."""
        elapsed, self._now = now - self._now, now
        begun: list[Job] = []
        done: list[Job] = []
        prompt_rate, write_rate = self._prompt_rate(), self._write_rate()
        if self._reading is not None:
            self._unread -= elapsed * prompt_rate
        if self._running:
            self._written += elapsed * write_rate
        if self._reading is not None and self._unread < 1e-6:
            job, self._reading, self._unread = self._reading, None, 0.0
            job.first_byte_at = now
            begun.append(job)
            heapq.heappush(self._running, (self._written + max(0, job.arrival.output_tokens - 1), job))
        while self._running and self._running[0][0] - self._written < 1e-6:
            _, job = heapq.heappop(self._running)
            self._release(job)
            done.append(job)
        self._begin()
        return begun, done

    def _step(self) -> float:
        reading = self._chunk / PROMPT_RATE if self._reading is not None else 0.0
        return max(STEP, reading) + STEP_EACH * len(self._running)

    def _prompt_rate(self) -> float:
        return self._chunk / self._step()

    def _write_rate(self) -> float:
        return 1 / self._step()

    def _begin(self) -> None:
        """Read the next prompt where there is room for it."""
        if self._reading is not None or not self._waiting or len(self._running) >= MAX_RUNNING:
            return
        job = self._waiting[0]
        arrival = job.arrival
        cached = self.count_cached(arrival)
        shared = arrival.blocks[: -(-cached // BLOCK_TOKENS)]
        total = -(-(arrival.prompt_tokens + arrival.output_tokens) // BLOCK_TOKENS)
        fresh = [*arrival.blocks[len(shared) :]]
        # What it writes, and prompts that share nothing, are blocks that nobody asks for again.
        fresh += [-(job.number * 4096 + place) - 1 for place in range(total - len(shared) - len(fresh))]
        idle_shared = sum(block in self._idle for block in shared)
        spare = self._room - len(self._used) - idle_shared
        if len(fresh) > spare and self._running:
            return
        self._waiting.popleft()
        for block in shared:
            self._idle.pop(block, None)
            self._used[block] = self._used.get(block, 0) + 1
        while self._idle and len(self._used) + len(self._idle) + len(fresh) > self._room:
            self._idle.popitem(last=False)
        for block in fresh:
            self._idle.pop(block, None)
            self._used[block] = self._used.get(block, 0) + 1
        job.held = [*shared, *fresh]
        job.cached = cached
        self._reading = job
        self._unread = float(arrival.prompt_tokens - cached)
        self._chunk = self._unread / math.ceil(self._unread / CHUNK)
        self.read += arrival.prompt_tokens - cached

    def _release(self, job: Job) -> None:
        for block in reversed(job.held):
            left = self._used[block] - 1
            if left:
                self._used[block] = left
            else:
                del self._used[block]
                self._idle[block] = None
        job.held = []
