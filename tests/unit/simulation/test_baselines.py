"""The autoscalers that Lull is compared with, by what their documentation says they do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.autoscaling.aibrix import Apa, decide
from bench.autoscaling.hpa import MILLI, SYNC, Hpa, Keda, SloLoop, propose_for_pods
from bench.autoscaling.knative import Kpa
from lull.core.simulation.fleet import Scaler
from tests.fakes.views import make_view


def follow(scaler: Scaler, asked: int, seconds: float, **seen: Any) -> list[int]:
    """What it decides while it sees the same for so long, and all that it asks for is ready at once."""
    decided, now = [], 0.0
    while now <= seconds:
        asked = scaler.scale(make_view(now, asked=asked, **seen))
        decided.append(asked)
        now += scaler.tick
    return decided


def test_the_hpa_doubles_at_most_with_each_sync() -> None:
    assert follow(Hpa(most=20), 1, 3 * SYNC, waiting=500)[:3] == [4, 8, 16]


def test_the_hpa_waits_five_minutes_before_it_takes_replicas_away() -> None:
    decided = follow(Hpa(most=20), 7, 400)

    assert decided.index(1) == 300 / SYNC + 1


def test_the_hpa_counts_replicas_that_load_as_idle_on_the_way_up() -> None:
    assert propose_for_pods(4, [9 * MILLI, 9 * MILLI], 5 * MILLI) == 4
    assert propose_for_pods(4, [20 * MILLI, 20 * MILLI], 5 * MILLI) == 8


def test_keda_takes_the_last_replica_after_the_cool_down_and_brings_one_at_a_poll() -> None:
    keda = Keda()

    awake = [keda.scale(make_view(at, asked=1, running=1)) for at in (0.0, 15.0, 30.0)]
    left = next(at for at in range(45, 600, 15) if keda.scale(make_view(float(at), asked=1)) == 0)
    back = next(at for at in range(left + 15, left + 90, 15) if keda.scale(make_view(float(at), asked=0, held=1)) == 1)

    assert awake == [1, 1, 1]
    assert left == 360
    assert back == left + 30


def test_the_kpa_wakes_for_the_first_request_and_leaves_alone_what_loads() -> None:
    kpa = Kpa(target=10)

    assert kpa.scale(make_view(100.0, asked=0, held=1)) == 1
    assert {kpa.scale(make_view(float(at), asked=1, ready=0, loading=1)) for at in range(102, 400, 2)} == {1}


def test_the_kpa_goes_to_zero_a_stable_window_and_the_grace_after_the_last_request() -> None:
    decided = follow(Kpa(target=10), 1, 300)

    assert decided.index(0) * 2 == 60 + 30


def test_the_kpa_panics_where_the_load_doubles_and_takes_nothing_away_meanwhile() -> None:
    kpa = Kpa(target=10, most=20)
    for at in range(0, 120, 2):
        kpa.scale(make_view(float(at), asked=1, running=8))

    risen = [kpa.scale(make_view(float(at), asked=1, running=150)) for at in range(120, 130, 2)]
    after = [kpa.scale(make_view(float(at), asked=15, running=10)) for at in range(130, 180, 2)]

    assert risen[-1] == 15
    assert set(after) == {15}


@pytest.mark.parametrize(
    ("use", "ready", "wanted"),
    [(0.54, 4, 4), (0.6, 4, 5), (2.0, 4, 8), (0.4, 4, 4), (0.2, 4, 2), (0.05, 4, 2), (0.9, 2, 4), (0.1, 2, 3)],
)
def test_apa_follows_the_ratio_within_its_rates_and_counts_what_loads(use: float, ready: int, wanted: int) -> None:
    assert decide(0.5, use, 4, ready) == wanted


def test_apa_waits_five_minutes_before_it_takes_replicas_away() -> None:
    decided = follow(Apa(), 4, 400, kv_usage=(0.1, 0.1))

    assert set(decided[:30]) == {4}
    assert decided[-1] < 4


@pytest.mark.parametrize(
    ("ttft", "ready", "wanted"),
    [(1.0, 4, 4), (1.5, 4, 4), (3.0, 4, 8), (3.0, 2, 4), (30.0, 4, 8)],
)
def test_the_slo_loop_credits_what_loads(ttft: float, ready: int, wanted: int) -> None:
    loop = SloLoop(3.0, 0.1, least=1, most=20)

    # Thirty seconds of the same, as its window for scaling up has it.
    decided = [loop.scale(make_view(at, asked=4, ready=ready, ttft_p90=ttft)) for at in (0.0, 15.0, 30.0, 45.0)]

    assert max(decided) == wanted


@given(
    st.sampled_from([Hpa, Keda, Kpa, Apa, lambda **bounds: SloLoop(3.0, 0.1, **bounds)]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.floats(0, 1)), max_size=60),
)
def test_everybody_stays_within_the_bounds(make: type[Hpa], loads: list[tuple[int, int, float]]) -> None:
    scaler, asked, now = make(least=2, most=9), 2, 0.0
    for waiting, running, use in loads:
        asked = scaler.scale(
            make_view(now, asked=asked, waiting=waiting, running=running, kv_usage=(use,) * asked, ttft_p90=6 * use)
        )
        now += scaler.tick
        assert 2 <= asked <= 9
