"""The engine, against one that takes every step by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.core.simulation.engine import Engine, Job, Request
from lull.core.simulation.replica import ReplicaModel
from tests.unit.simulation.models import linear


@dataclass
class Slow:
    """vLLM's scheduler as it is written down: step by step, in lists."""

    model: ReplicaModel
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    """In the order of admission: those that read come last."""

    def serve(self, requests: list[Request]) -> dict[int, tuple[float, float]]:
        """First token and end of each."""
        now = 0.0
        firsts: dict[int, float] = {}
        times: dict[int, tuple[float, float]] = {}
        coming = [Job(request, number, request.input_tokens, 0) for number, request in enumerate(requests)]
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                now = max(now, coming[0].request.at)
            while coming and coming[0].request.at <= now:
                self.waiting.append(coming.pop(0))
            seconds, chunks, decoding = self._step()
            now += seconds
            for job in decoding:
                job.written += 1
            for job, chunk in chunks:
                job.read += chunk
                if job.read == job.prompt:
                    job.written += 1
                    firsts.setdefault(job.number, now)
            for job in [job for job in self.running if job.written >= job.request.output_tokens]:
                self.running.remove(job)
                times[job.number] = (firsts[job.number], now)
        return times

    def _context(self, job: Job) -> int:
        return job.prompt if job.read < job.prompt else job.request.input_tokens + job.written

    def _room(self) -> int:
        return self.model.kv_tokens - sum(map(self._context, self.running)) - len(self.running)

    def _step(self) -> tuple[float, list[tuple[Job, int]], list[Job]]:
        while self._room() < 0:
            job = max(self.running, key=lambda job: (job.read < job.prompt, self.running.index(job)))
            self.running.remove(job)
            job.prompt = self._context(job)
            job.read = 0
            self.waiting.insert(0, job)
        decoding = [job for job in self.running if job.read == job.prompt]
        budget = self.model.max_num_batched_tokens - len(decoding)
        chunks: list[tuple[Job, int]] = []
        for job in self.running:
            if job.read < job.prompt and budget > 0:
                chunks.append((job, min(budget, job.prompt - job.read)))
                budget -= chunks[-1][1]
        while self.waiting and budget > 0 and len(self.running) < self.model.max_num_seqs:
            if self.waiting[0].prompt + 1 > self._room():
                break
            job = self.waiting.pop(0)
            self.running.append(job)
            chunks.append((job, min(budget, job.prompt - job.read)))
            budget -= chunks[-1][1]
        context = sum(map(self._context, decoding))
        tokens = sum(chunk for _, chunk in chunks)
        seconds = self.model.mixed_step_seconds(prompt_tokens=tokens, batch=len(decoding), context_tokens=context)
        seconds -= self.model.attention_seconds * tokens**2 / 2
        seconds += sum(self.model.attention_seconds * chunk * (job.read + chunk / 2) for job, chunk in chunks)
        return seconds, chunks, decoding


def serve(model: ReplicaModel, requests: list[Request]) -> dict[int, tuple[float, float]]:
    engine, times = Engine(model), {}
    coming = [Job(request, number, request.input_tokens, 0) for number, request in enumerate(requests)]
    while coming or engine.until < inf:
        if coming and coming[0].request.at < engine.until:
            job = coming.pop(0)
            engine.take(job, job.request.at)
        else:
            now = engine.until
            assert engine.kv_tokens(now) <= model.kv_tokens
            assert engine.running <= model.max_num_seqs
            for job in engine.advance().finished:
                assert job.first_at is not None
                times[job.number] = (job.first_at, now)
    assert (engine.unread, engine.in_flight, engine.kv_tokens(0.0)) == (0, 0, 0)
    return times


# On a grid that no step ends on, so that it is never chance whether a request makes it into a step.
ARRIVALS = st.integers(0, 500).map(lambda tick: tick * 0.0173 + 1e-5)
REQUESTS = st.lists(
    st.builds(Request, at=ARRIVALS, input_tokens=st.integers(1, 600), output_tokens=st.integers(1, 120)),
    min_size=1,
    max_size=25,
    unique_by=lambda request: request.at,
).map(sorted)


@given(
    REQUESTS,
    st.integers(1, 8),
    st.sampled_from([720, 1500, 20_000]),
    st.sampled_from([64, 300, 2048]),
)
def test_runs_of_steps_are_as_exact_as_steps(requests: list[Request], seats: int, room: int, budget: int) -> None:
    model = linear(kv_tokens=room, max_num_seqs=seats, max_num_batched_tokens=budget)

    found, right = serve(model, requests), Slow(model).serve(requests)

    assert found.keys() == right.keys()
    for number, times in right.items():
        assert found[number] == pytest.approx(times, rel=1e-6)


def test_reads_a_prompt_in_as_many_steps_as_the_budget_takes() -> None:
    model = linear(step=1.0, context=0.0, token=0.001, attention=0.0, max_num_batched_tokens=1000)

    times = serve(model, [Request(0.0, 2500, 3)])

    assert times[0] == pytest.approx((3 * 1.0 + 2.5, 5 * 1.0 + 2.502))


def test_reads_short_prompts_together_in_one_step() -> None:
    model = linear(step=1.0, context=0.0, token=0.001, attention=0.0, max_num_batched_tokens=1000)

    times = serve(model, [Request(0.0, 10, 1), Request(0.1, 300, 1), Request(0.2, 300, 1)])

    assert times[1] == times[2] == pytest.approx((2.61, 2.61))


def test_a_prompt_takes_time_from_those_who_write() -> None:
    model = linear(step=1.0, context=0.0, token=0.001, attention=0.0, max_num_batched_tokens=1000)

    alone = serve(model, [Request(0.0, 10, 11)])
    beside = serve(model, [Request(0.0, 10, 11), Request(4.5, 500, 1)])

    assert beside[0][1] - alone[0][1] == pytest.approx(0.5)


def test_who_came_last_gives_way_when_the_cache_is_full_and_is_answered_all_the_same() -> None:
    model = linear(kv_tokens=250)

    times = serve(model, [Request(0.0, 100, 100), Request(0.001, 100, 100)])

    assert times[0][1] < times[1][1]
    assert times[1][0] < times[0][1], "its first token came before it had to give way"
