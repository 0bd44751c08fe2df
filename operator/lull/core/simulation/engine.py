"""One vLLM engine: continuous batching with chunked prefill, seats, KV cache and preemption.

As vLLM's scheduler does, each step writes one token for every sequence that decodes, and spends what is left of
`max_num_batched_tokens` on prompts, first come, first served. A step that reads is one event. Steps that only write
are all alike but for the contexts that grow, so that a whole run of them, until a sequence ends, is one event as well;
an arrival cuts it short at the end of the step in which it comes. Sequences end at a count of steps, which is the same
clock for all of them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto, unique
from heapq import heappop, heappush
from math import ceil, inf, sqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lull.core.simulation.replica import ReplicaModel


class Request(NamedTuple):
    """One line of a trace."""

    at: float
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    """Of the input, those that the engine finds in its cache."""


@unique
class Stage(Enum):
    WAITING = auto()
    READING = auto()
    DECODING = auto()
    OVER = auto()


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way."""

    request: Request
    number: int
    prompt: int
    """Tokens to read: the input, and after a preemption what was written as well."""
    read: int
    written: int = 0
    """As of the last time that it began to decode."""
    end: int = 0
    """Step of its engine at which its last token is written."""
    stage: Stage = Stage.WAITING
    first_at: float | None = None
    held_at: float = 0.0
    """Since when it had waited when it was let go."""


class Progress(NamedTuple):
    """What came of a step, or of a run of them."""

    answered: list[Job]
    """Their first token is there."""
    finished: list[Job]


_NOTHING: Progress = Progress([], [])


@dataclass(slots=True, eq=False)
class Engine:
    model: ReplicaModel
    until: float = inf
    """When the present step or run of steps ends; never while there is nothing to do."""
    unread: int = 0
    """Prompt tokens that it was given and has yet to read."""
    waiting: deque[Job] = field(default_factory=deque)
    _reading: deque[Job] = field(default_factory=deque)
    _decoding: dict[int, Job] = field(default_factory=dict)
    """By number, in the order in which they began to decode."""
    _ends: list[tuple[int, int, Job]] = field(default_factory=list)
    """A heap; entries of jobs that were preempted since do not count."""
    _clock: int = 0
    """Steps so far, at the beginning of the present run."""
    _context: int = 0
    """Tokens in the KV cache of those that decode, at the same time."""
    _prompts: int = 0
    """Tokens of input among them."""
    _reserved: int = 0
    """Tokens in the KV cache for the prompts that are being read."""
    _chunks: list[tuple[Job, int]] = field(default_factory=list)
    """What the present step reads."""
    _began: float = 0.0
    _steps: int = 0
    _linear: float = 0.0
    _square: float = 0.0
    """A run of k steps takes linear · k + square · k² seconds."""

    @property
    def running(self) -> int:
        return len(self._reading) + len(self._decoding)

    @property
    def in_flight(self) -> int:
        return len(self.waiting) + self.running

    def kv_tokens(self, now: float) -> float:
        """Tokens in the KV cache."""
        return self._context + self._reserved + len(self._decoding) * self._find_step(now)

    def written(self, now: float) -> float:
        """Tokens that those who decode have had."""
        return self._context - self._prompts + len(self._decoding) * self._find_step(now)

    def jobs(self) -> Iterator[Job]:
        """All that it has, oldest first as far as it matters."""
        yield from self._decoding.values()
        yield from self._reading
        yield from self.waiting

    def take(self, job: Job, now: float) -> None:
        """Get one more request."""
        self.waiting.append(job)
        self.unread += job.prompt - job.read
        if self.until == inf:
            self._plan(now)
        elif not self._chunks and len(self.waiting) == 1 and self._has_room(job):
            # In the midst of a run: the next step but the present one may read.
            self._steps = min(self._steps, max(1, ceil(self._find_step(now) - 1e-9)))
            self.until = max(now, self._began + self._linear * self._steps + self._square * self._steps**2)

    def advance(self) -> Progress:
        """End the present run, at `until`, and begin the next."""
        now, steps = self.until, self._steps
        self._clock += steps
        self._context += steps * len(self._decoding)
        ends, clock = self._ends, self._clock
        finished: list[Job] = []
        while ends and ends[0][0] <= clock:
            end, _, job = heappop(ends)
            if job.stage is Stage.DECODING and job.end == end:
                self._leave(job)
                finished.append(job)
        progress = Progress(self._read(now, finished), finished) if self._chunks else Progress(_NOTHING[0], finished)
        self._plan(now)
        return progress

    def _read(self, now: float, finished: list[Job]) -> list[Job]:
        """Account for the prompts that the step has read; those that gave their first token."""
        answered: list[Job] = []
        for job, chunk in self._chunks:
            job.read += chunk
            self.unread -= chunk
            if job.read < job.prompt:
                continue
            self._reading.popleft()
            self._reserved -= job.prompt
            job.written += 1
            if job.first_at is None:
                job.first_at = now
                answered.append(job)
            request = job.request
            if job.written >= request.output_tokens:
                job.stage = Stage.OVER
                finished.append(job)
                continue
            job.stage = Stage.DECODING
            job.end = self._clock + request.output_tokens - job.written
            self._context += request.input_tokens + job.written
            self._prompts += request.input_tokens
            self._decoding[job.number] = job
            heappush(self._ends, (job.end, job.number, job))
        return answered

    def _leave(self, job: Job) -> None:
        """Out of those that decode, with all that it has had."""
        job.written = job.request.output_tokens - (job.end - self._clock)
        job.stage = Stage.OVER
        self._context -= job.request.input_tokens + job.written
        self._prompts -= job.request.input_tokens
        del self._decoding[job.number]

    def _plan(self, now: float) -> None:
        """Begin the next step, or run of steps, at the end of one."""
        room = self._find_room()
        while room < 0:
            self._preempt()
            room = self._find_room()
        chunks = self._chunks = self._pack(room) if self._reading or self.waiting else []
        model, batch = self.model, len(self._decoding)
        self._began, self._square = now, 0.0
        if chunks:
            tokens = sum([chunk for _, chunk in chunks])
            # Each token attends to those before it in its own prompt: as in one prompt that is so far along.
            seen = sum([chunk * (job.read + chunk / 2) for job, chunk in chunks]) / tokens
            self._steps = 1
            self._linear = model.mixed_step_seconds(
                prompt_tokens=tokens, before=seen - tokens / 2, batch=batch, context_tokens=self._context
            )
        elif batch:
            self._plan_run(batch)
        else:
            self.until = inf
            self._steps, self._linear = 0, 0.0
            return
        self.until = now + self._linear * self._steps + self._square * self._steps**2

    def _plan_run(self, batch: int) -> None:
        """As many steps as it takes until a sequence ends, or the KV cache is full."""
        ends, context = self._ends, self._context
        while ends[0][2].stage is not Stage.DECODING or ends[0][2].end != ends[0][0]:
            heappop(ends)
        until_full = (self.model.kv_tokens - context - self._reserved) // batch
        steps = self._steps = max(1, min(ends[0][0] - self._clock, until_full))
        first = self._linear = self.model.step_seconds(batch, context)
        if steps > 1:
            # Contexts grow by a token a step, and time with them: the step in the middle is the average.
            average = self.model.step_seconds(batch, context + batch * (steps - 1) / 2)
            self._square = (average - first) / (steps - 1)
            self._linear = first - self._square

    def _pack(self, room: int) -> list[tuple[Job, int]]:
        """Prompts, or parts of them, that the next step reads; those that wait get seats as they get tokens."""
        budget = self.model.max_num_batched_tokens - len(self._decoding)
        chunks: list[tuple[Job, int]] = []
        for job in self._reading:
            if budget <= 0:
                return chunks
            chunk = min(budget, job.prompt - job.read)
            chunks.append((job, chunk))
            budget -= chunk
        seats, waiting = self.model.max_num_seqs - self.running, self.waiting
        while waiting and budget > 0 and seats > 0 and waiting[0].prompt < room:
            job = waiting.popleft()
            job.stage = Stage.READING
            self._reading.append(job)
            self._reserved += job.prompt
            chunk = min(budget, job.prompt - job.read)
            chunks.append((job, chunk))
            budget -= chunk
            room -= job.prompt + 1
            seats -= 1
        return chunks

    def _find_room(self) -> int:
        """Tokens that the KV cache has room for beyond what the next step writes."""
        return self.model.kv_tokens - self._context - self._reserved - self.running

    def _has_room(self, job: Job) -> bool:
        return self.running < self.model.max_num_seqs and job.prompt < self._find_room()

    def _preempt(self) -> None:
        """Throw out whoever came last; it has to read again all that it had, before those that wait."""
        if self._reading:
            job = self._reading.pop()
            self._reserved -= job.prompt
            self.unread += job.read
        else:
            job = next(reversed(self._decoding.values()))
            self._leave(job)
            job.prompt = job.request.input_tokens + job.written
            self.unread += job.prompt
        job.read, job.stage = 0, Stage.WAITING
        self.waiting.appendleft(job)

    def _find_step(self, now: float) -> float:
        """Steps of the present run that are over, in parts of one."""
        spent = now - self._began
        if self._chunks or spent <= 0 or not self._steps:
            return 0.0
        if self._square < 1e-15:
            return min(float(self._steps), spent / self._linear)
        root = sqrt(self._linear**2 + 4 * self._square * spent)
        return min(float(self._steps), (root - self._linear) / (2 * self._square))
