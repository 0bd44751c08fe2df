from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lull.core.simulation.fleet import ColdStart, Options, Request, Slo, Spot, View, simulate
from lull.core.simulation.replica import ReplicaModel
from tests.unit.simulation.models import By, Fixed, linear

TRACES = st.lists(
    st.builds(
        Request,
        at=st.floats(0, 400),
        input_tokens=st.integers(1, 5000),
        output_tokens=st.integers(1, 600),
        cached_tokens=st.integers(0, 5000),
    ),
    max_size=60,
).map(sorted)
MODELS = st.builds(
    linear,
    kv_tokens=st.sampled_from([3000, 8000, 100_000]),
    max_num_seqs=st.integers(1, 16),
    max_num_batched_tokens=st.sampled_from([128, 2048]),
)
OPTIONS = st.builds(
    Options,
    cold_start=st.floats(0, 100) | st.builds(ColdStart, st.floats(5, 50), st.floats(50, 200)),
    max_replicas=st.integers(1, 4),
    initial_replicas=st.integers(0, 3),
    spot=st.none() | st.builds(Spot, lifetime=st.floats(50, 500), notice=st.floats(0, 60)),
    max_held=st.integers(0, 50),
    hold_seconds=st.floats(1, 300),
    drain_seconds=st.floats(0, 30),
    until=st.floats(0, 600),
)
PLANS = st.lists(st.integers(0, 6), min_size=1, max_size=12)
"""Replicas to have in turn, whatever the load."""


def erratic(plan: list[int], tick: float = 7.0) -> By:
    return By(lambda view: plan[int(view.now / tick) % len(plan)], tick=tick)


@given(TRACES, PLANS, MODELS, OPTIONS, st.integers(0, 9))
def test_every_request_ends_in_exactly_one_way(
    trace: list[Request], plan: list[int], model: ReplicaModel, options: Options, seed: int
) -> None:
    outcome = simulate(trace, erratic(plan), model, options, seed)

    assert outcome.requests == len(trace)
    assert outcome.finished + outcome.refused + outcome.shed + outcome.failed == len(trace)
    last = outcome.samples[-1]
    assert (last.held, last.waiting, last.running) == (0, 0, 0)
    assert outcome.longest_hold <= options.hold_seconds + 1e-6
    assert 0 <= outcome.attainment <= min(outcome.ttft_attainment, outcome.tpot_attainment) <= 1


@given(TRACES, PLANS, MODELS, OPTIONS)
def test_what_a_scaler_sees_is_possible(
    trace: list[Request], plan: list[int], model: ReplicaModel, options: Options
) -> None:
    def look(view: View) -> int:
        assert view.asked == view.ready + view.loading <= options.max_replicas
        assert view.in_flight == view.waiting + view.running
        assert view.held <= options.max_held + view.arrived
        assert len(view.kv_usage) == len(view.queue_by_replica) == view.ready
        assert all(0 <= usage <= 1 for usage in view.kv_usage)
        assert view.arrived <= len(trace)
        assert view.finished + view.held + view.in_flight <= view.arrived
        assert view.prompt_tokens_waiting >= 0
        assert view.output_tokens_outstanding_estimate >= 0
        assert view.held == 0 or view.tokens_held > 0
        return plan[int(view.now / 7) % len(plan)]

    simulate(trace, By(look, tick=3.0), model, options, 1)


@given(TRACES, PLANS, MODELS, OPTIONS, st.integers(0, 9))
def test_a_seed_gives_the_same_again(
    trace: list[Request], plan: list[int], model: ReplicaModel, options: Options, seed: int
) -> None:
    assert simulate(trace, erratic(plan), model, options, seed) == simulate(trace, erratic(plan), model, options, seed)


@given(TRACES, PLANS, MODELS, OPTIONS)
def test_replicas_cost_between_none_and_the_most_there_were(
    trace: list[Request], plan: list[int], model: ReplicaModel, options: Options
) -> None:
    outcome = simulate(trace, erratic(plan), model, options, 1)

    assert 0 <= outcome.mean_replicas <= outcome.most_replicas + 1e-9
    assert outcome.wakes <= outcome.starts


@given(st.lists(st.tuples(st.floats(0.01, 2), st.integers(50, 3000), st.integers(2, 400)), min_size=20, max_size=150))
def test_more_replicas_meet_the_slo_more_often(gaps: list[tuple[float, int, int]]) -> None:
    at, trace = 0.0, []
    for gap, input_tokens, output_tokens in gaps:
        at += gap
        trace.append(Request(at, input_tokens, output_tokens))

    def attain(replicas: int) -> float:
        options = Options(initial_replicas=replicas, slo=Slo(0.5, 0.03))
        return simulate(trace, Fixed(replicas), linear(max_num_seqs=8), options, 0).attainment

    few, some, many = attain(1), attain(2), attain(8)

    # Which prompts meet on an engine is chance, as in any queue: a few requests may be worse off with more engines.
    noise = 0.1
    assert few <= some + noise
    assert some <= many + noise
