"""What a replica's speed must obey, whatever its figures are."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lull.core.simulation.calibration import Engine, build_replica_model
from lull.core.simulation.presets import PRESETS
from lull.core.simulation.replica import Load, ReplicaModel, highest_rate, predict

presets = st.sampled_from(sorted(PRESETS)).map(PRESETS.__getitem__)
tokens = st.integers(1, 30_000)
batches = st.integers(1, 256)
loads = st.builds(
    Load,
    input_tokens=st.integers(2, 8000),
    output_tokens=st.integers(2, 2000),
    concurrency=st.floats(1, 400),
)


@given(presets, batches, tokens, st.integers(0, 100), st.integers(0, 10_000))
def test_a_step_takes_no_less_time_for_more(
    model: ReplicaModel, batch: int, context: int, more: int, longer: int
) -> None:
    assert model.step_seconds(batch + more, context + longer) >= model.step_seconds(batch, context) > 0


@given(presets, tokens, tokens)
def test_a_longer_prompt_takes_longer_to_read(model: ReplicaModel, prompt: int, more: int) -> None:
    assert model.prefill_seconds(prompt + more) > model.prefill_seconds(prompt)


@given(presets, tokens, tokens)
def test_what_is_cached_is_not_read_again(model: ReplicaModel, prompt: int, cached: int) -> None:
    assert model.prefill_seconds(prompt, min(cached, prompt)) <= model.prefill_seconds(prompt) * (1 + 1e-9)


@given(presets, tokens, batches)
def test_a_prompt_takes_less_from_a_batch_than_it_takes_alone(model: ReplicaModel, prompt: int, batch: int) -> None:
    alone = model.prefill_seconds(prompt)

    added = model.added_prefill_seconds(prompt, batch=batch, context_tokens=batch * 500)

    # A batch leaves less of each step to prompts, so that a long prompt needs one step more now and then.
    assert 0 < added <= alone * 1.25 + model.prefill_overhead_seconds + model.exchange_seconds * batch


@given(presets, st.integers(1, 2000), batches)
def test_a_step_that_reads_and_writes_takes_longer_than_either(model: ReplicaModel, prompt: int, batch: int) -> None:
    both = model.mixed_step_seconds(prompt_tokens=prompt, batch=batch, context_tokens=batch * 500)

    assert both > model.step_seconds(batch, batch * 500)
    assert both > model.mixed_step_seconds(prompt_tokens=prompt)


def test_no_sequence_no_step() -> None:
    assert PRESETS["llama-3.1-8b-h100"].step_seconds(0, 0) == 0


@given(presets, loads)
def test_a_closed_loop_obeys_littles_law(model: ReplicaModel, load: Load) -> None:
    assert load.concurrency is not None
    assume(load.input_tokens + load.output_tokens < model.kv_tokens)

    seen = predict(model, load)
    present = seen.throughput * (seen.ttft + (load.output_tokens - 1) * seen.tpot)

    assert present == pytest.approx(load.concurrency, rel=0.02)


@given(presets, loads, st.floats(1.01, 3))
def test_more_at_once_are_no_faster_each(model: ReplicaModel, load: Load, times: float) -> None:
    assert load.concurrency is not None
    assume(load.input_tokens + load.output_tokens < model.kv_tokens)

    alone, crowded = predict(model, load), predict(model, replace(load, concurrency=load.concurrency * times))

    assert crowded.tpot >= alone.tpot * 0.99
    assert crowded.running >= alone.running * 0.99


@given(presets, st.integers(100, 4000), st.integers(50, 1000), st.floats(0.05, 0.9))
def test_an_open_load_finishes_as_fast_as_it_comes(model: ReplicaModel, prompt: int, answer: int, share: float) -> None:
    load = Load(input_tokens=prompt, output_tokens=answer)
    rate = share * highest_rate(model, load, ttft=60, tpot=10)
    assume(rate > 1e-6)

    seen = predict(model, replace(load, rate=rate))

    assert not seen.is_saturated
    assert seen.throughput == pytest.approx(rate)
    assert seen.running == pytest.approx(rate * (answer - 1) * seen.tpot, rel=0.01)


@given(presets)
def test_even_arrivals_wait_no_longer_than_random_ones(model: ReplicaModel) -> None:
    load = Load(input_tokens=2000, output_tokens=500)
    rate = 0.9 * highest_rate(model, load, ttft=30, tpot=1)

    random = predict(model, replace(load, rate=rate))

    assert predict(model, replace(load, rate=rate, variability=0)).ttft < random.ttft


def test_says_so_where_more_comes_in_than_is_finished() -> None:
    seen = predict(PRESETS["llama-3.1-8b-l4"], Load(input_tokens=2000, output_tokens=500, rate=1000))

    assert seen.is_saturated
    assert math.isinf(seen.ttft)
    assert seen.throughput < 1000


def test_where_memory_is_full_the_rest_waits() -> None:
    model = replace(PRESETS["llama-3.1-8b-h100"], kv_tokens=20_000)
    load = Load(input_tokens=1000, output_tokens=1000, concurrency=100)

    seen = predict(model, load)

    assert seen.running == pytest.approx(20_000 / 1500)
    assert seen.ttft > 3 * (load.output_tokens - 1) * seen.tpot


def test_an_objective_that_one_request_misses_allows_no_rate() -> None:
    model = PRESETS["llama-3.3-70b-fp8-h200"]

    assert highest_rate(model, Load(input_tokens=4000, output_tokens=100), ttft=0.01, tpot=0.1) == pytest.approx(0)


def test_two_ranks_are_faster_than_one_and_slower_than_two_of_one() -> None:
    one = build_replica_model("Qwen/Qwen3-32B", "H200")
    two = build_replica_model("Qwen/Qwen3-32B", "H200", Engine(tensor_parallel=2))

    assert one.step_seconds(8, 8000) / 2 < two.step_seconds(8, 8000) < one.step_seconds(8, 8000)
    assert one.prefill_seconds(4000) / 2 < two.prefill_seconds(4000) < one.prefill_seconds(4000)


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (Load(input_tokens=1, output_tokens=1), "a concurrency or a rate"),
        (Load(input_tokens=0, output_tokens=1, rate=1), "at least one input token"),
        (Load(input_tokens=1, output_tokens=0, rate=1), "at least one input token"),
        (Load(input_tokens=1, output_tokens=1, rate=0), "above 0"),
        (Load(input_tokens=1, output_tokens=1, concurrency=-1), "above 0"),
    ],
)
def test_says_what_a_load_lacks(load: Load, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        predict(PRESETS["llama-3.1-8b-h100"], load)
