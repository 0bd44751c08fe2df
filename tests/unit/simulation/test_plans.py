"""What the benchmark of autoscaling is made of: loads, the clairvoyant's plans, and what is claimed of a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.autoscaling import claim
from bench.autoscaling.contest import CLAIRVOYANT, FAMILIES, LULL, STATIC, Arena, Entry
from bench.autoscaling.plans import Needed, Planned, build_plan, count_needed, measure_work
from bench.autoscaling.scenario import find_rate
from bench.autoscaling.traces import list_loads, make_llmd, make_square, read_servegen
from tests.fakes.views import make_view


def count_at(plan: Planned, at: float) -> int:
    return plan.scale(make_view(at))


def test_orders_a_cold_start_ahead_and_keeps_what_is_needed_again_soon() -> None:
    plan = build_plan(Needed(30, (1, 1, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1)), cold_start=50)

    assert [count_at(plan, at) for at in (0.0, 39.0, 41.0, 130.0, 179.0, 181.0, 309.0, 311.0, 389.0, 391.0)] == [
        *(1, 1, 2, 2, 2, 1, 1, 2, 2, 1)
    ]


def test_a_plan_ends_with_nobody() -> None:
    plan = build_plan(Needed(30, (0, 3, 0)), cold_start=20)

    assert [count_at(plan, at) for at in (0.0, 11.0, 61.0)] == [0, 3, 0]


def test_takes_a_replica_away_in_one_part() -> None:
    assert Needed(30, (2, 2, 0, 0, 1, 1)).take_away(0, of=3) == Needed(30, (1, 1, 0, 0, 1, 1))
    assert Needed(30, (2, 2, 0, 0, 1, 1)).take_away(1, of=3) == Needed(30, (2, 2, 0, 0, 1, 1))


def test_a_window_has_what_the_one_before_may_leave_to_it() -> None:
    assert count_needed([0.5, 2.5, 0.0, 0.0], fill=1.0, most=2, is_late=True) == [1, 2, 2, 0]
    assert count_needed([0.5, 2.5, 0.0, 0.0], fill=0.5, most=9, is_late=False) == [1, 5, 0, 0]


def test_a_replica_is_busy_with_what_it_sustains() -> None:
    load = next(load for load in list_loads(is_quick=True) if load.name == "square burst")
    requests = make_square(low=1.0, high=1.0, seconds=1200.0, count=1)

    busy = measure_work(load, requests, 1200.0)

    assert sum(busy) == pytest.approx(len(requests) / 1200 / 1.06, rel=0.15)


def test_days_have_nights_without_a_request() -> None:
    requests = read_servegen("m-small", days=1, pace=24.0, peak=8.0)
    hours = [sum(hour * 150 <= request.at < (hour + 1) * 150 for request in requests) for hour in range(24)]

    assert min(hours) == 0
    assert max(hours) > 300


@pytest.mark.parametrize("load", list_loads(is_quick=True), ids=lambda load: load.name)
def test_traces_are_in_order_of_time_and_the_same_each_time(load: object) -> None:
    requests = load.read()  # type: ignore[attr-defined]  # pytest has no type for a parameter

    assert list(requests) == sorted(requests, key=lambda request: request.at)
    assert requests == load.read()  # type: ignore[attr-defined]  # as above


def test_the_scenario_is_the_published_one() -> None:
    requests = make_llmd()

    assert len(requests) == pytest.approx(2 * 330 + (4 + 6 + 8 + 10 + 4) * 360 + 300, rel=0.03)
    assert find_rate() == pytest.approx(1.45, abs=0.15)


@pytest.fixture(scope="module")
def arena() -> Arena:
    load = replace(list_loads(is_quick=True)[-1], most=10)
    return Arena(load, make_square(low=0.5, high=5.0, seconds=200.0, count=1), cold_start=20.0, fewest=6)


def test_the_clairvoyant_holds_for_less_than_who_never_scales(arena: Arena) -> None:
    fewest = arena.find_static()

    bound = arena.find_clairvoyant(fewest, is_quick=True)

    assert fewest.holds
    assert bound.holds
    assert bound.gpu_hours < 0.8 * fewest.gpu_hours


def test_a_sweep_finds_a_setting_that_holds_where_the_documented_one_does_not(arena: Arena) -> None:
    family = next(family for family in FAMILIES if family.name == "Knative KPA")
    documented = arena.run_family(family, family.targets[0], family.least)

    swept = list(arena.sweep(family, documented))

    assert not documented.holds
    assert [one.holds and one.is_swept for one in swept] == [True]


PEAK = Entry("a trace", 100.0, STATIC, "10", False, 1.0, 1.0, 1.0, 10.0, 10.0, 10, 0, 0.0)
FEWEST = replace(PEAK, setting="8", is_swept=True, attainment=0.992, gpu_hours=8.0)
BOUND = replace(PEAK, contender=CLAIRVOYANT, attainment=0.991, gpu_hours=4.0)
KEDA = replace(PEAK, contender="KEDA", attainment=0.995, gpu_hours=6.0)
OURS = replace(PEAK, contender=LULL, attainment=0.994, gpu_hours=5.0)


@pytest.mark.parametrize(
    ("ours", "kept"),
    [
        (OURS, [True, True, True, True, True]),
        (replace(OURS, gpu_hours=5.4), [True, True, False, True, False]),
        # Cheaper is nothing where less is kept.
        (replace(OURS, attainment=0.98, gpu_hours=3.0), [False, True, False, True, False]),
        (replace(OURS, attainment=0.98, gpu_hours=7.0), [False, False, False, True, False]),
    ],
)
def test_claims_what_is_saved_only_where_the_slo_is_kept(ours: Entry, kept: list[bool]) -> None:
    assert [one.kept for one in claim([PEAK, FEWEST, BOUND, KEDA, ours])] == kept
