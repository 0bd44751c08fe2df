"""What is learnt of replicas, by example."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lull.core.learning import (
    FIRST_MARGIN,
    LEAST_MARGIN,
    MOST_MARGIN,
    Knowledge,
    Objective,
    Scene,
    find_need,
    learn,
)
from lull.core.signals import Service

OBJECTIVE = Objective(first_token=3.0, per_token=0.1, percentile=99)
EASY = Service(arrived=0, finished=0, queued=0, reading=0.2, kv_usage=0.45, first_token=0.3, per_token=0.02)


def watch(
    service: Service, *, rate: float, ready: int = 2, seconds: int = 600, known: Knowledge | None = None, held: int = 0
) -> Knowledge:
    """So long the same, looked at every second; as many are answered as arrive."""
    began = 0.0 if known is None else known.at
    counted = 0 if known is None else known.service.arrived
    for second in range(seconds + 1):
        done = counted + round(rate * second)
        missed = None if service.missed is None else round(service.missed * rate * second / 100)
        seen = replace(
            service, arrived=done, finished=done, missed=missed, met=None if missed is None else done - missed
        )
        known = learn(known, seen, Scene(began + second, ready, held), OBJECTIVE)
    assert known is not None
    return known


def test_a_replica_half_full_carries_about_twice_as_much() -> None:
    known = watch(EASY, rate=2.0)

    assert known.is_known
    assert known.capacity == pytest.approx(2.0, rel=0.1)


def test_the_busiest_of_three_resources_decides() -> None:
    reading = watch(replace(EASY, reading=0.8, first_token=2.0), rate=2.0)
    writing = watch(replace(EASY, per_token=0.02), rate=2.0, seconds=30)
    slow = watch(replace(EASY, per_token=0.08), rate=2.0, known=writing)

    assert reading.capacity < 1.4
    assert slow.busyness > 0.9


def whole(busy: float, *, alone: float = 0.1) -> Service:
    """Nothing streams: what a replica that is shared among its requests takes, over what it takes for one."""
    return Service(arrived=0, finished=0, queued=0, kv_usage=0.05, whole=alone / (1 - busy))


@pytest.mark.parametrize("alone", [0.01, 0.1, 0.2])
def test_answers_that_do_not_stream_tell_how_busy_a_replica_is(alone: float) -> None:
    quiet = watch(whole(0.05, alone=alone), rate=0.1)
    busy = watch(whole(0.6, alone=alone), rate=2.0, known=quiet, seconds=900)

    assert not quiet.is_known
    assert busy.is_known
    # One replica of two carries what keeps it as busy as the SLO allows.
    most = 1 - alone
    assert busy.capacity == pytest.approx(1.0 / 0.6 * most, rel=0.25)


def test_streams_tell_more_than_answers_that_do_not() -> None:
    assert watch(replace(EASY, whole=0.9), rate=2.0).busyness == watch(EASY, rate=2.0).busyness


def test_knows_nothing_of_an_idle_model() -> None:
    known = watch(replace(EASY, kv_usage=0.0, reading=0.0, first_token=None, per_token=None), rate=0.0)

    assert not known.is_known
    assert find_need(known, Scene(known.at, 2, 0), cold_start=None) is None


def test_learns_from_saturated_replicas_too() -> None:
    full = replace(EASY, reading=1.0, kv_usage=1.0, queued=50, first_token=30.0)

    known = watch(full, rate=3.0, ready=3)

    assert known.is_rough
    assert known.capacity == pytest.approx(0.87, rel=0.05)


def test_needs_replicas_for_what_arrives_and_a_margin() -> None:
    known = watch(EASY, rate=2.0)

    need = find_need(known, Scene(known.at, 2, 0), cold_start=100.0)

    assert need is not None
    assert need.now == pytest.approx(2.0 * (1 + FIRST_MARGIN) / known.capacity, rel=0.02)
    assert need.backlog == 0


def test_needs_more_for_what_has_piled_up() -> None:
    known = watch(EASY, rate=2.0)

    need = find_need(known, Scene(known.at, 2, 100), cold_start=100.0)

    assert need is not None
    assert need.backlog == pytest.approx((100 - 3) / (known.capacity * 200), rel=0.05)


def test_sees_a_jump_within_seconds() -> None:
    calm = watch(EASY, rate=5.0)

    jumped = watch(EASY, rate=15.0, known=calm, seconds=10)

    assert jumped.expected > 10


def test_does_not_take_chance_for_a_jump() -> None:
    calm = watch(EASY, rate=5.0)

    assert watch(EASY, rate=5.5, known=calm, seconds=10).expected == pytest.approx(5.0, rel=0.03)


def test_takes_more_proof_of_a_jump_while_load_is_as_it_was_than_while_it_changes() -> None:
    calm = watch(EASY, rate=5.0)
    rising = watch(EASY, rate=7.0, known=calm, seconds=60)

    wave = watch(EASY, rate=7.5, known=calm, seconds=10)
    further = watch(EASY, rate=10.0, known=rising, seconds=10)

    assert wave.expected == wave.slow
    assert further.expected > further.slow


def test_keeps_a_little_more_than_is_needed_however_well_it_goes() -> None:
    known = watch(replace(EASY, missed=0), rate=2.0, seconds=7200)

    need = find_need(known, Scene(known.at, 2, 0), cold_start=100.0)

    assert need is not None
    assert need.now == pytest.approx(2.0 * (1 + LEAST_MARGIN) / known.capacity, rel=0.02)


def test_misses_of_a_jump_raise_the_margin_and_successes_lower_it() -> None:
    known = watch(replace(EASY, missed=0), rate=2.0, seconds=1800)
    worse = watch(replace(EASY, missed=20), rate=6.0, known=known, seconds=600)

    assert LEAST_MARGIN <= known.margin < FIRST_MARGIN
    assert known.margin < worse.margin <= MOST_MARGIN


def test_as_many_misses_as_allowed_change_nothing_on_the_whole() -> None:
    known = watch(replace(EASY, missed=1), rate=10.0, seconds=3600)

    assert known.margin + known.overrated == pytest.approx(FIRST_MARGIN, abs=0.02)


def test_misses_with_enough_replicas_say_that_they_carry_less() -> None:
    known = watch(replace(EASY, missed=0), rate=2.0)
    worse = watch(replace(EASY, missed=5), rate=2.0, known=known, seconds=600)

    assert worse.carried < known.carried
    assert worse.margin <= known.margin


def test_misses_with_too_few_replicas_are_a_matter_of_margin() -> None:
    known = watch(replace(EASY, missed=0), rate=2.0)
    worse = watch(replace(EASY, missed=20), rate=6.0, known=known, seconds=60)

    assert worse.margin - known.margin > 5 * worse.overrated


def test_an_slo_that_no_replica_keeps_says_nothing_of_what_one_carries() -> None:
    slow = replace(EASY, per_token=0.5, missed=0)
    known = watch(slow, rate=2.0)

    assert watch(replace(slow, missed=100), rate=2.0, known=known, seconds=600).overrated == 0


def test_misses_while_more_replicas_load_are_answered_already() -> None:
    known = watch(replace(EASY, missed=0), rate=2.0)
    seen = replace(known.service, arrived=known.service.arrived + 2, missed=2)

    after = learn(known, seen, Scene(known.at + 1, 2, 0, loading=1), OBJECTIVE)

    assert (after.margin, after.overrated) == (known.margin, known.overrated)


def test_misses_of_a_cold_start_from_nothing_say_nothing_about_the_margin() -> None:
    asleep = watch(replace(EASY, missed=0), rate=2.0)
    waking = watch(replace(EASY, missed=100), rate=1.0, ready=0, held=50, known=asleep, seconds=100)

    late = watch(replace(EASY, missed=100), rate=1.0, ready=1, held=1, known=waking, seconds=30)

    assert late.margin == asleep.margin


def test_begins_anew_where_somebody_counts_anew() -> None:
    known = watch(EASY, rate=2.0)

    after = learn(known, replace(EASY, epoch="b"), Scene(known.at + 1, 2, 0), OBJECTIVE)

    assert (after.capacity, after.slow) == (known.capacity, known.slow)


def test_looks_only_once_at_a_moment() -> None:
    known = watch(EASY, rate=2.0)

    assert learn(known, replace(EASY, arrived=99999), Scene(known.at, 2, 0), OBJECTIVE) == known
