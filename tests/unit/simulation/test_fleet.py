from __future__ import annotations

import pytest

from lull.core.simulation.fleet import ColdStart, Options, Outcome, Request, Slo, Spot, View, simulate
from tests.unit.simulation.models import By, Fixed, linear

MODEL = linear()
SMALL = linear(max_num_seqs=2)
"""Gets four at a time, two of which it has seats for."""


def steady(count: int, *, every: float, input_tokens: int = 500, output_tokens: int = 100) -> list[Request]:
    return [Request(number * every, input_tokens, output_tokens) for number in range(count)]


def on_demand(view: View) -> int:
    return min(1, view.held + view.in_flight)


def test_latencies_of_a_lone_request_are_those_of_the_model() -> None:
    model = linear(step=0.01, context=0.0, token=0.001, attention=0.0, request=0.02)

    outcome = simulate([Request(5.0, 500, 11)], Fixed(1), model, Options(initial_replicas=1), 0)

    assert outcome.ttft is not None
    assert outcome.tpot is not None
    assert outcome.ttft.most == pytest.approx(0.02 + 0.01 + 0.5)
    assert outcome.tpot.most == pytest.approx(0.011)
    assert outcome.seconds == pytest.approx(5.0 + 0.51 + 0.11)
    assert outcome.replica_hours == pytest.approx(outcome.seconds / 3600)


def test_what_is_held_waits_for_the_cold_start_and_is_served_then() -> None:
    requests = [Request(0.5, 500, 100), Request(1.5, 500, 100), Request(2.5, 500, 100)]

    outcome = simulate(requests, By(on_demand), MODEL, Options(cold_start=100.0, wake_delay=0.05), 0)

    assert (outcome.finished, outcome.starts, outcome.wakes) == (3, 1, 1)
    assert outcome.longest_hold == pytest.approx(100.05)
    assert outcome.ttft is not None
    assert 98 < outcome.ttft.p50 < 100
    assert (outcome.attainment, outcome.ttft_attainment, outcome.tpot_attainment) == (0.0, 0.0, 1.0)


def test_a_held_request_wakes_whoever_looks_rarely_if_it_wants_to_be_woken() -> None:
    first = Request(1.0, 10, 10)

    eager = simulate([first], By(on_demand, tick=30.0), MODEL, Options(cold_start=10.0), 0)
    slow = simulate([first], By(on_demand, tick=30.0, wakes=False), MODEL, Options(cold_start=10.0), 0)

    assert eager.longest_hold == pytest.approx(10.02)
    assert slow.longest_hold == pytest.approx(39.0)


def test_replicas_cost_from_being_asked_for_until_they_are_gone() -> None:
    scaler = By(lambda view: 2 if 10 <= view.now < 50 else 0)
    options = Options(cold_start=30.0, until=100.0, gpus_per_replica=4)

    outcome = simulate([], scaler, MODEL, options, 0)

    assert outcome.replica_hours * 3600 == pytest.approx(80.0)
    assert outcome.gpu_hours * 3600 == pytest.approx(320.0)
    assert (outcome.seconds, outcome.mean_replicas, outcome.most_replicas) == pytest.approx((100.0, 0.8, 2))
    assert outcome.attainment == 1.0


def test_fewer_replicas_are_those_that_load_and_then_the_youngest_when_they_have_finished() -> None:
    scaler = By(lambda view: 3 if view.now < 5 else 1)
    long = Request(3.0, 100, 2000)

    outcome = simulate([long, long], scaler, MODEL, Options(cold_start=10.0, initial_replicas=2), 0)

    last = scaler.seen[-1]
    assert (last.asked, last.ready, last.loading) == (1, 1, 0)
    assert outcome.finished == 2, "both were served to the end, one of them on its way out"
    assert outcome.samples[10].leaving == 1


def test_what_a_replica_cannot_finish_in_time_is_cut_and_what_it_has_not_begun_goes_to_another() -> None:
    scaler = By(lambda view: 2 if view.now < 5 else 1)
    requests = [Request(1.0, 100, 50_000), Request(1.0, 100, 50_000), *[Request(1.0, 100, 100)] * 4]
    model = linear(max_num_seqs=1, context=0.0)

    outcome = simulate(requests[:3], scaler, model, Options(initial_replicas=2, drain_seconds=20.0), 0)

    assert (outcome.failed, outcome.finished) == (1, 2)


def test_never_gives_a_replica_more_than_its_slots() -> None:
    scaler = By(lambda view: 1)

    simulate(steady(50, every=0.001), scaler, SMALL, Options(initial_replicas=1), 0)

    assert max(view.in_flight for view in scaler.seen) == 4
    assert max(view.running for view in scaler.seen) == 2
    assert max(view.held for view in scaler.seen) == 46


def test_sheds_what_is_more_than_may_be_held_or_waits_for_too_long() -> None:
    options = Options(max_held=5, hold_seconds=60.0)

    outcome = simulate(steady(8, every=1.0), Fixed(0), MODEL, options, 0)

    assert (outcome.requests, outcome.shed, outcome.finished) == (8, 8, 0)
    assert outcome.longest_hold == 60.0
    assert outcome.seconds == pytest.approx(64.0)
    assert outcome.attainment == 0.0


def test_refuses_what_no_engine_has_room_for() -> None:
    outcome = simulate([Request(0.0, 300_000, 200_000)], Fixed(1), MODEL, Options(initial_replicas=1), 0)

    assert (outcome.refused, outcome.attainment) == (1, 0.0)


def test_cached_tokens_are_not_read() -> None:
    def ttft(cached: int) -> float:
        request = Request(0.0, 10_000, 5, cached)
        outcome = simulate([request], Fixed(1), MODEL, Options(initial_replicas=1), 0)
        assert outcome.ttft is not None
        return outcome.ttft.mean

    assert ttft(10_000) < 0.02 < ttft(9_000) < ttft(0)


def test_goes_to_the_replica_with_the_least_outstanding_tokens() -> None:
    requests = [Request(0.0, 8000, 100), *(Request(0.01 * number, 1000, 100) for number in range(1, 8))]
    scaler = By(lambda view: 2, tick=0.05)

    simulate(requests, scaler, MODEL, Options(initial_replicas=2), 0)

    assert max(view.queue_by_replica[0] for view in scaler.seen) == 0
    assert max(view.queue_by_replica[1] for view in scaler.seen) >= 3


def test_a_lost_spot_replica_is_replaced_when_its_notice_comes() -> None:
    requests = steady(2000, every=1.0)
    options = Options(cold_start=60.0, initial_replicas=2, spot=Spot(lifetime=600.0, notice=120.0), slo=Slo(10.0, 0.1))

    outcome = simulate(requests, Fixed(2), MODEL, options, 3)

    assert outcome.losses == outcome.starts > 0
    assert (outcome.finished, outcome.failed) == (2000, 0)
    assert outcome.mean_replicas > 2


def test_without_notice_answers_are_cut() -> None:
    options = Options(cold_start=60.0, initial_replicas=2, spot=Spot(lifetime=300.0, notice=0.0))

    outcome = simulate(steady(2000, every=0.5), Fixed(2), MODEL, options, 3)

    assert outcome.failed > 0
    assert outcome.finished + outcome.failed == 2000


def test_cold_starts_spread_as_told() -> None:
    def sees(options: Options) -> float:
        scaler = By(lambda view: 1)
        simulate([], scaler, MODEL, options, 5)
        assert scaler.seen[-1].cold_start is not None
        return scaler.seen[-1].cold_start

    assert sees(Options(cold_start=40.0, until=300.0)) == 40.0
    assert sees(Options(cold_start=ColdStart(40.0, 40.0), until=300.0)) == 40.0
    measured = [sample for seed in range(200) if (sample := _start(ColdStart(50.0, 200.0), seed))]
    assert sum(seconds < 50 for seconds in measured) == pytest.approx(20, abs=12)
    assert sum(seconds < 100 for seconds in measured) == pytest.approx(100, abs=30)
    assert sum(seconds > 200 for seconds in measured) == pytest.approx(20, abs=12)


def _start(cold_start: ColdStart, seed: int) -> float:
    outcome = simulate([Request(0.0, 1, 1)], Fixed(1), MODEL, Options(cold_start=cold_start, hold_seconds=1e6), seed)
    return outcome.longest_hold


def test_says_what_a_scaler_can_know() -> None:
    scaler = By(lambda view: 1)
    requests = [Request(float(number), 1000, 50, 100) for number in range(100)]

    outcome = simulate(requests, scaler, MODEL, Options(initial_replicas=1, begins=1000.0, until=300.0), 0)

    middle, last = scaler.seen[50], scaler.seen[-1]
    assert (middle.now, middle.wall, middle.asked, middle.ready, middle.loading) == (50.0, 1050.0, 1, 1, 0)
    assert (middle.ready_at, middle.arrived, middle.finished) == (0.0, 51, 50)
    assert middle.prompt_tokens_waiting == 900
    assert 0 < middle.output_tokens_outstanding_estimate <= 256
    assert middle.ttft_p90 is not None
    assert outcome.ttft is not None
    assert middle.ttft_p90 == pytest.approx(outcome.ttft.p90)
    assert middle.tpot_p90 == pytest.approx(0.01, rel=0.1)
    assert (last.in_flight, last.ttft_p90, last.tpot_p90, last.kv_usage) == (0, None, None, (0.0,))


def test_keeps_few_samples_of_a_long_time() -> None:
    outcome = simulate([Request(500_000.0, 10, 10)], Fixed(0), MODEL, Options(), 0)

    at = [sample.at for sample in outcome.samples]
    assert 1000 < len(at) <= 2049
    assert at == sorted(at)
    assert at[-1] == outcome.seconds


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([Request(2.0, 1, 1), Request(1.0, 1, 1)], "in order of time"),
        ([Request(0.0, 0, 1)], "at least"),
        ([Request(0.0, 1, 0)], "at least"),
    ],
)
def test_refuses_a_trace_that_makes_no_sense(requests: list[Request], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        simulate(requests, Fixed(1), MODEL, Options(), 0)


def test_the_same_seed_gives_the_same_outcome() -> None:
    def run(seed: int) -> Outcome:
        options = Options(cold_start=ColdStart(50, 150), spot=Spot(500.0))
        return simulate(steady(500, every=1.0), Fixed(2), MODEL, options, seed)

    assert run(7) == run(7)
    assert run(7) != run(8)
