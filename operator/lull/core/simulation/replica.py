"""How fast one engine replica is: how long its steps take, and what its clients see of that under a steady load. Pure.

An engine works in steps. A step moves every running sequence on by one token and takes in a chunk of the prompts that
wait. It reads the weights once, whatever it carries; beyond a few hundred tokens arithmetic takes longer than reading.
Attention reads the keys and values of every context, tensor parallel ranks exchange activations in each layer, and
launching kernels and scheduling sequences takes time of its own.

`predict` is the steady state of that in closed form: with n sequences running, prompts arrive as fast as sequences end,
so the time between two tokens is a step, and n prompts' prefill spread over a sequence's tokens. What is left is to
find the n that the load implies (Little's law).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Guesses at the number of running sequences: every third halves what is left, so that 45 are exact to 2**-15 at worst.
_GUESSES: Final = 45
_HALVINGS: Final = 40
# Guesses at how many prompts share a step.
_GROUPINGS: Final = 4
# How sharply a step that waits for its kernels' launches gives way to one that does not.
_LAUNCH_KNEE: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaModel:
    """How one engine replica behaves: seconds for each kind of work that a step does, and what it has room for."""

    weights_seconds: float
    """To read all weights that every token passes."""
    token_seconds: float
    """Arithmetic of one token in the linear layers."""
    kv_seconds: float
    """To read one token of context, in one decode step."""
    attention_seconds: float
    """Of one prompt token's attention to one token before it."""
    overhead_seconds: float
    """Of each step: scheduling, launching kernels, sampling, the latency of exchanges between ranks."""
    kv_tokens: int
    """Tokens of context that fit into memory."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    experts_seconds: float = 0.0
    """To read all experts; a step reads those that its tokens are routed to."""
    expert_share: float = 0.0
    """Of all experts, those that one token is routed to."""
    expert_tile_seconds: float = 0.0
    """Arithmetic wasted where every expert is touched: each computes whole tiles of tokens, half of the last one empty."""
    sequence_seconds: float = 0.0
    """Of each running sequence in a step, whatever its context."""
    exchange_seconds: float = 0.0
    """To exchange one token's activations between tensor parallel ranks, in all layers."""
    replicated_seconds: float = 0.0
    """Of one token in what every rank does for itself: norms, routing, moving activations."""
    window: int = 0
    """Tokens that layers of sliding attention look back; 0 where there are none."""
    window_kv_seconds: float = 0.0
    """As kv_seconds, in the layers of sliding attention."""
    window_attention_seconds: float = 0.0
    """As attention_seconds, in the layers of sliding attention."""
    prefill_overhead_seconds: float = 0.0
    """Of each step that carries more tokens than a CUDA graph was captured for, beside overhead_seconds."""
    graph_tokens: int = 512
    """The most tokens of a step that runs as a captured graph; vLLM's default."""
    launch_seconds: float = 0.0
    """To launch a step's kernels one by one, while the GPU works: the least of a step without CUDA graphs."""
    request_seconds: float = 0.0
    """Between client and scheduler and back, once a request: HTTP, tokenising, the first detokenising."""
    knee: float = 2.0
    """How sharply reading gives way to arithmetic: the higher, the closer to the longer of the two."""

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """One decode step of `batch` sequences whose contexts add up to `context_tokens`."""
        if batch <= 0:
            return 0.0
        return self.mixed_step_seconds(batch=batch, context_tokens=context_tokens)

    def mixed_step_seconds(
        self, *, prompt_tokens: float = 0.0, before: float = 0.0, batch: float = 0.0, context_tokens: float = 0.0
    ) -> float:
        """One step that takes in `prompt_tokens` of a prompt, `before` tokens into it, beside `batch` sequences."""
        tokens = prompt_tokens + batch
        touched = 1 - (1 - self.expert_share) ** tokens
        read = self.weights_seconds + self.experts_seconds * touched
        computed = tokens * self.token_seconds + touched * self.expert_tile_seconds
        linear = (read**self.knee + computed**self.knee) ** (1 / self.knee)
        seconds = (
            linear
            + context_tokens * self.kv_seconds
            + min(context_tokens, batch * self.window) * self.window_kv_seconds
            + tokens * (self.exchange_seconds + self.replicated_seconds)
            + batch * self.sequence_seconds
            + self.overhead_seconds
        )
        if prompt_tokens <= 0:
            return self._launched(seconds)
        # Prompts differ in length round the one that stands for them, so the graph's limit is passed by degrees.
        beyond = min(1.0, max(0.0, tokens / self.graph_tokens - 1))
        attention = self._attention_seconds(prompt_tokens, before)
        return self._launched(seconds + attention + beyond * self.prefill_overhead_seconds)

    def prefill_seconds(self, prompt_tokens: float, cached_tokens: float = 0.0) -> float:
        """The prefill of one prompt by an engine that does nothing else, in as many steps as it needs."""
        return self.prefill_among(prompt_tokens, cached_tokens)

    def prefill_among(
        self, prompt_tokens: float, cached_tokens: float = 0.0, *, batch: float = 0.0, context_tokens: float = 0.0
    ) -> float:
        """The prefill of one prompt in steps that move `batch` sequences on as well, from its first step to its last."""
        chunk = max(1.0, self.max_num_batched_tokens - batch)
        # The last token of a prompt that is cached as a whole is computed all the same.
        before = min(cached_tokens, prompt_tokens - 1)
        steps = max(1, math.ceil((prompt_tokens - before) / chunk))
        each = (prompt_tokens - before) / steps
        # Steps of one prompt differ in attention alone, and that evenly: the middle one stands for all.
        return steps * self.mixed_step_seconds(
            prompt_tokens=each,
            before=before + each * (steps - 1) / 2,
            batch=batch,
            context_tokens=context_tokens,
        )

    def added_prefill_seconds(
        self, prompt_tokens: float, cached_tokens: float = 0.0, *, batch: float, context_tokens: float
    ) -> float:
        """What one prompt's prefill takes away from `batch` sequences that decode meanwhile.

        Less than prefill_seconds: the weights are read for both, and the step is launched for both.
        """
        chunk = max(1.0, self.max_num_batched_tokens - batch)
        steps = max(1, math.ceil((prompt_tokens - min(cached_tokens, prompt_tokens - 1)) / chunk))
        among = self.prefill_among(prompt_tokens, cached_tokens, batch=batch, context_tokens=context_tokens)
        return among - steps * self.step_seconds(batch, context_tokens)

    def most_running(self, context_tokens: float) -> float:
        """How many sequences of so many tokens run at once."""
        return max(1.0, min(self.max_num_seqs, self.kv_tokens / max(1.0, context_tokens)))

    def _launched(self, seconds: float) -> float:
        if not self.launch_seconds:
            return seconds
        return math.pow(seconds**_LAUNCH_KNEE + self.launch_seconds**_LAUNCH_KNEE, 1 / _LAUNCH_KNEE)

    def _attention_seconds(self, tokens: float, before: float) -> float:
        pairs = tokens * (before + tokens / 2)
        near = tokens * min(self.window, before + tokens / 2)
        return pairs * self.attention_seconds + near * self.window_attention_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A steady load of equal requests on one replica: so many at a time (closed loop), or so many a second (open)."""

    input_tokens: float
    output_tokens: float
    cached_tokens: float = 0.0
    concurrency: float | None = None
    rate: float | None = None
    variability: float = 1.0
    """Of an open load: the squared coefficient of variation of the times between arrivals; 0 where they are even."""
    first_wave: float = 0.1
    """Of a closed loop: the share of its requests that come in at once at its start; benchmarks run for ten rounds."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the clients of a replica see on average."""

    ttft: float
    """Seconds to the first token; infinite where the replica cannot keep up with an open load."""
    tpot: float
    """Seconds between two tokens of an answer."""
    throughput: float
    """Requests finished per second."""
    running: float
    """Sequences that decode at once."""

    @property
    def is_saturated(self) -> bool:
        """Whether requests come in faster than the replica finishes them."""
        return math.isinf(self.ttft)


def predict(model: ReplicaModel, load: Load) -> Prediction:
    """Say what a load sees of a replica once it is steady."""
    if load.input_tokens < 1 or load.output_tokens < 1:
        raise ValueError("a load has at least one input token and one output token per request")
    if not (load.rate is None or load.rate > 0) or not (load.concurrency is None or load.concurrency > 0):
        raise ValueError("a load's rate and concurrency are above 0")
    if load.rate is not None:
        return _predict_open(model, load, load.rate)
    if load.concurrency is not None:
        return _predict_closed(model, load, load.concurrency)
    raise ValueError("a load has a concurrency or a rate")


def highest_rate(model: ReplicaModel, load: Load, *, ttft: float, tpot: float) -> float:
    """Find the most requests per second at which the averages stay within an objective; 0 where none does."""

    def is_met(rate: float) -> bool:
        seen = _predict_open(model, load, rate)
        return seen.ttft <= ttft and seen.tpot <= tpot

    low, high = 0.0, 1.0
    while is_met(high) and high < 1e6:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_met(middle) else (low, middle)
    return low


@dataclass(frozen=True, slots=True)
class _State:
    """A replica with so many sequences running, prompts coming in as fast as sequences end."""

    running: float
    tpot: float
    rate: float
    first: float
    """Seconds to the first token of a request that finds no other prompt waiting."""
    service: float
    """Seconds of a prompt in a row of prompts that wait."""
    filling: float
    """Share of a step that a prompt fills."""


def _predict_open(model: ReplicaModel, load: Load, rate: float) -> Prediction:
    most = model.most_running(_context(load))
    top = _state(model, load, most)
    if rate >= top.rate:
        return Prediction(math.inf, top.tpot, top.rate, top.running)
    state = _state(model, load, _solve(lambda running: _state(model, load, running).rate, rate, most))
    busy = rate * state.service
    if busy >= 1:
        return Prediction(math.inf, state.tpot, rate, state.running)
    waiting = state.filling * busy * state.service / (1 - busy) + _slot_wait(state, most, rate / top.rate)
    # Requests are all the same: only their arrivals vary.
    return Prediction(state.first + waiting * load.variability / 2, state.tpot, rate, state.running)


def _slot_wait(state: _State, most: float, utilization: float) -> float:
    """Wait for memory that other sequences hold: Sakasegawa's approximation of a queue with many servers."""
    crowding = math.pow(utilization, math.sqrt(2 * (most + 1)) - 1) / (most * (1 - utilization))
    return crowding * (state.running / state.rate)


def _predict_closed(model: ReplicaModel, load: Load, concurrency: float) -> Prediction:
    most = min(concurrency, model.most_running(_context(load)))

    def find_present(running: float) -> float:
        state = _state(model, load, running)
        return running + state.rate * _closed_ttft(state, load, concurrency)

    running = _solve(find_present, concurrency, most)
    state = _state(model, load, running)
    # Where memory holds no more sequences, the rest of them wait for one to end.
    held = (concurrency - running) / state.rate if running >= most else 0.0
    return Prediction(max(_closed_ttft(state, load, concurrency), held), state.tpot, state.rate, state.running)


def _closed_ttft(state: _State, load: Load, concurrency: float) -> float:
    """A closed loop's own share never waits for itself, and its first wave comes in at once."""
    busy = min(0.99, state.rate * state.service) * max(0.0, concurrency - 1) / concurrency
    among = min(state.filling * busy / (2 * (1 - busy)), concurrency / 2)
    return state.first + (among + load.first_wave * (concurrency - 1) / 2) * state.service


def _solve(rising: Callable[[float], float], target: float, most: float) -> float:
    """Where a function that rises from 0 reaches a target; `most` where it does not: false position, halved now and then."""
    low, high = 0.0, most
    below, above = -target, rising(most) - target
    if above <= 0:
        return most
    for turn in range(_GUESSES):
        guess = (low + high) / 2 if turn % 3 == 2 else high - above * (high - low) / (above - below)
        off = rising(guess) - target
        if off < 0:
            low, below = guess, off
        else:
            high, above = guess, off
        if abs(off) <= 1e-9 * target:
            return guess
    return high


def _state(model: ReplicaModel, load: Load, running: float) -> _State:
    # Where arrivals are random, a sequence sees itself beside as many as run on average.
    batch = running + (0.0 if load.rate is None else min(1.0, load.variability))
    context = batch * _context(load)
    step = model.step_seconds(max(batch, 1e-6), context)
    decoded = max(1.0, load.output_tokens - 1)
    chunk = max(1.0, model.max_num_batched_tokens - batch)
    cached = min(load.cached_tokens, load.input_tokens - 1)
    fresh = load.input_tokens - cached
    steps = max(1, math.ceil(fresh / chunk))
    together = 1.0
    for _ in range(_GROUPINGS):
        # Prompts that come in during a step share the next one; they do not attend to each other.
        among = steps * model.mixed_step_seconds(
            prompt_tokens=together * fresh / steps,
            before=cached + fresh / 2 - together * fresh / steps / 2,
            batch=batch,
            context_tokens=context,
        )
        tpot = step + running * max(0.0, among - steps * step) / together / decoded
        rate = running / (decoded * tpot)
        # A request comes in somewhere within a step: one that carries prompts, or one that carries none.
        busy = min(1.0, rate * among / together)
        waited = busy * among / steps + (1 - busy) * step * min(1.0, running)
        # Of arrivals at random, those that are not alone.
        together = min(max(1.0, chunk / fresh), _share(rate * waited))
    # In a row of prompts that wait, each step is filled to its brim.
    filling = min(1.0, fresh / chunk)
    brim = model.mixed_step_seconds(
        prompt_tokens=chunk, before=cached + fresh / 2 - chunk / 2, batch=batch, context_tokens=context
    )
    service = brim * filling if steps == 1 else among
    return _State(running, tpot, rate, model.request_seconds + waited / 2 + among, service, filling)


def _share(mean: float) -> float:
    """How many come at once, where any do and `mean` do on average."""
    return mean / -math.expm1(-mean) if mean > 1e-9 else 1.0


def _context(load: Load) -> float:
    return load.input_tokens + load.output_tokens / 2
