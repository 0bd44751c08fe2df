"""What came past the gateways, by two counts that never quite agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.core.bypassing import KEPT_LOOKS, Look, assess, merge_engines, remember
from lull.core.enginemetrics import EngineSample
from lull.core.signals import Demand, Service

NOTHING = Demand(held=0, in_flight=0, waiting=0, last_request_at=None, complete=True)
IDLE = EngineSample(running=0, waiting=0, kv_usage=0.0, finished=0, tokens=0, answered=0)


def said(in_flight: int = 0, *, last: float | None = None, finished: int | None = None) -> Demand:
    """What gateways said; `finished` of all that arrived."""
    service = None if finished is None else Service(arrived=finished, finished=finished, epoch="a")
    return replace(NOTHING, in_flight=in_flight, last_request_at=last, service=service)


def look(at: float, *engines: EngineSample, gateways: Demand | None = NOTHING) -> Look:
    in_flight = 0 if gateways is None else gateways.in_flight
    return Look(at, {str(number): engine for number, engine in enumerate(engines)}, in_flight, gateways)


def busy(running: int, waiting: int = 0, *, tokens: int | None = None, **counts: Any) -> EngineSample:
    return EngineSample(running=running, waiting=waiting, tokens=tokens, **counts)


def merge(*looks: Look, demand: Demand | None = NOTHING, ready: int = 1, now: float | None = None) -> Demand:
    at = looks[-1].at if now is None else now
    merged = merge_engines(demand, assess(looks), ready=ready, now=at, stale_after=15.0)
    assert merged is not None
    return merged


def test_counts_all_that_engines_have_while_gateways_have_nothing() -> None:
    demand = merge(look(0.0, busy(3, 2), busy(1)), look(5.0, busy(3, 2), busy(1)))

    assert (demand.waiting, demand.is_any, demand.complete) == (6, True, True)


def test_what_one_look_shows_and_the_next_does_not_is_no_surplus() -> None:
    assert merge(look(0.0, IDLE), look(5.0, busy(40))).waiting == 0
    assert merge(look(0.0, busy(40)), look(5.0, IDLE)).waiting == 0


def test_a_burst_that_went_through_the_gateways_leaves_none_behind() -> None:
    during, after = said(40), said(0, last=5.5)

    demand = merge(look(0.0, busy(40), gateways=during), look(5.0, busy(40), gateways=during), demand=after, now=6.0)

    assert demand.waiting == 0


def test_engines_that_say_less_than_the_gateways_add_nothing() -> None:
    slow = said(9, finished=0)

    assert merge(look(0.0, busy(2), gateways=slow), look(5.0, busy(2), gateways=slow), demand=slow).waiting == 0


def test_a_request_that_is_many_at_its_engine_is_no_surplus() -> None:
    """One request with 500 inputs after the other: as many are answered as the gateways have had."""
    looks = [
        look(5.0 * n, busy(64, 436, tokens=n, answered=20 * n), gateways=said(1, finished=20 * n)) for n in range(6)
    ]

    assert merge(*looks, demand=said(1)).waiting == 0


def test_counts_the_share_of_those_that_no_gateway_had_beside_those_that_one_had() -> None:
    looks = [look(5.0 * n, busy(40, tokens=n, answered=40 * n), gateways=said(10, finished=10 * n)) for n in range(12)]

    assert 26 <= merge(*looks, demand=said(10)).waiting <= 30


def test_without_counts_of_the_gateways_nothing_beside_theirs_is_told_apart() -> None:
    looks = [look(5.0 * n, busy(40, tokens=n, answered=40 * n), gateways=said(10)) for n in range(12)]

    assert merge(*looks, demand=said(10)).waiting == 0


def test_gateways_that_begin_to_count_anew_are_not_compared_with_before() -> None:
    counting = replace(said(1), service=Service(arrived=5000, finished=5000, epoch="a"))
    anew = replace(said(1), service=Service(arrived=0, finished=0, epoch="b"))
    before, after = busy(9, answered=5000), busy(9, answered=5050)

    assert merge(look(0.0, before, gateways=counting), look(5.0, after, gateways=anew), demand=said(1)).waiting == 0


def test_an_engine_that_restarted_counts_from_nothing() -> None:
    before, after = busy(9, answered=90_000), busy(9, answered=2)
    looks = look(0.0, before, gateways=said(1, finished=7)), look(5.0, after, gateways=said(1, finished=9))

    assert merge(*looks, demand=said(1)).waiting == 0


def test_a_gateway_that_is_not_heard_may_have_sent_all_of_it() -> None:
    partly = replace(NOTHING, complete=False)

    assert merge(look(0.0, busy(3), gateways=partly), look(5.0, busy(3), gateways=partly)).waiting == 0
    assert merge(look(0.0, busy(3), gateways=None), look(5.0, busy(3), gateways=None)).waiting == 0


def test_engines_that_are_silent_add_nothing_and_stop_nothing() -> None:
    demand = merge(look(0.0), look(5.0), ready=3)

    assert (demand.waiting, demand.complete) == (0, True)


def test_gauges_of_an_engine_that_works_on_nothing_do_not_count() -> None:
    """A version that does not say that it sleeps, or one that hangs: kept awake for ever, were it believed."""
    frozen = [look(5.0 * n, busy(3, 1, tokens=700)) for n in range(14)]

    assert merge(*frozen[:6]).waiting == 4
    assert merge(*frozen).waiting == 0


def test_an_engine_that_was_idle_for_long_and_begins_to_work_is_not_stuck() -> None:
    idle = [look(5.0 * n, busy(0, tokens=700)) for n in range(14)]

    assert merge(*idle, look(70.0, busy(1, tokens=700)), look(75.0, busy(1, tokens=700))).waiting == 1


def test_what_engines_finish_past_the_gateways_is_a_request_too() -> None:
    """Short ones, between the looks: no look sees them, the counter does."""
    looks = (
        look(0.0, replace(IDLE, finished=5)),
        look(5.0, replace(IDLE, finished=6)),
        look(10.0, replace(IDLE, finished=6)),
    )

    demand = merge(*looks)

    assert (demand.waiting, demand.last_request_at) == (0, 5.0)


@pytest.mark.parametrize("gateways", [said(1), said(0, last=-4.0), said(0, last=3.0), replace(NOTHING, complete=False)])
def test_what_engines_finish_for_a_gateway_is_not_one_that_came_past_it(gateways: Demand) -> None:
    looks = [look(5.0 * n, replace(IDLE, finished=n), gateways=gateways) for n in range(2)]

    assert merge(*looks, demand=gateways).last_request_at == gateways.last_request_at


def test_is_not_complete_before_two_looks_at_engines_that_are_ready() -> None:
    """After a restart of the operator nobody knows who keeps them busy."""
    assert not merge_complete((), ready=1)
    assert not merge_complete((look(0.0, IDLE),), ready=1)
    assert merge_complete((look(0.0, IDLE), look(5.0, IDLE)), ready=1)
    assert merge_complete((), ready=0)


def merge_complete(looks: Sequence[Look], *, ready: int) -> bool:
    merged = merge_engines(NOTHING, assess(looks), ready=ready, now=5.0, stale_after=15.0)
    assert merged is not None
    return merged.complete


def test_old_looks_do_not_count() -> None:
    demand = merge(look(0.0, busy(3)), look(5.0, busy(3)), now=30.0)

    assert (demand.waiting, demand.complete) == (0, False)


def test_no_demand_stays_none() -> None:
    assert merge_engines(None, assess((look(0.0, busy(3)),) * 2), ready=1, now=0.0, stale_after=15.0) is None


def test_says_how_engines_fare() -> None:
    before, now = look(0.0, IDLE), look(5.0, busy(3, 2, kv_usage=0.4), busy(1, kv_usage=0.8))

    service = merge(before, now, demand=said(6, finished=0), ready=2).service

    assert service is not None
    assert service.queued == 2
    assert service.kv_usage == pytest.approx(0.6)


def test_a_few_of_many_replicas_say_nothing_of_all_caches() -> None:
    service = merge(look(0.0), look(5.0, busy(3, 2, kv_usage=0.4)), demand=said(6, finished=0), ready=3).service

    assert service is not None
    assert (service.queued, service.kv_usage) == (2, None)


def test_an_engine_that_sleeps_says_nothing_of_its_queue() -> None:
    asleep = EngineSample(running=0, waiting=0, is_asleep=True)
    counted = replace(said(1), service=Service(arrived=0, finished=0, queued=1))

    service = merge(look(0.0, asleep), look(5.0, asleep), demand=counted).service

    assert service is not None
    assert service.queued == 1


def test_remembers_a_bounded_past() -> None:
    looks: tuple[Look, ...] = ()
    for at in range(1000):
        looks = remember(looks, look(at / 10, IDLE))

    assert len(looks) == KEPT_LOOKS
    assert [one.at for one in remember((look(0.0),), look(91.0))] == [91.0]


def follow(*looks: Look) -> tuple[Look, ...]:
    """As a scraper remembers them, one after the other."""
    known: tuple[Look, ...] = ()
    for one in looks:
        known = remember(known, one)
    return known


def test_what_engines_answered_and_no_gateway_had_has_arrived_and_is_finished() -> None:
    looks = follow(
        *(look(5.0 * n, busy(9, tokens=n, answered=40 * n), gateways=said(1, finished=10 * n)) for n in range(20))
    )

    now, halfway, later = (merge(*looks, demand=said(1, finished=190), now=at).service for at in (95.0, 97.5, 105.0))

    assert now is not None
    assert halfway is not None
    assert later is not None
    beyond = later.arrived - 190
    # Of 30 in 5 s, less what may be a difference in counting, and at first less than that.
    assert 450 <= beyond <= 30 * 19
    assert later.finished == later.arrived
    assert now.arrived < halfway.arrived < later.arrived
    assert now.epoch == later.epoch != "a"


def test_where_gateways_had_all_of_it_nothing_is_added() -> None:
    looks = follow(
        *(look(5.0 * n, busy(9, tokens=n, answered=40 * n), gateways=said(1, finished=40 * n)) for n in range(20))
    )

    assert merge(*looks, demand=said(1, finished=760)).service == Service(
        arrived=760, finished=760, epoch="a", queued=0
    )


def test_looks_after_a_time_without_any_count_from_nothing_and_say_so() -> None:
    first = follow(*(look(5.0 * n, busy(9, answered=40 * n), gateways=said(1, finished=0)) for n in range(4)))
    again = follow(*(look(500 + 5.0 * n, busy(9, answered=40 * n), gateways=said(1, finished=0)) for n in range(4)))
    demand = said(1, finished=0)

    one, other = merge(*first, demand=demand).service, merge(*again, demand=demand).service

    assert one is not None
    assert other is not None
    assert one.arrived == other.arrived > 0
    assert one.epoch != other.epoch


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90), st.floats(0.1, 4)), min_size=2, max_size=60))
def test_what_came_past_the_gateways_only_grows_and_is_no_more_than_engines_answered(
    seen: list[tuple[int, int, float]],
) -> None:
    looks: tuple[Look, ...] = ()
    at, answered, finished, arrived = 0.0, 0, 0, 0
    for more_answered, more_finished, pause in seen:
        at, answered, finished = at + pause, answered + more_answered, finished + more_finished
        looks = remember(looks, look(at, busy(1, answered=answered), gateways=said(1, finished=finished)))
        for now in (at, at + pause / 2, at + 2 * pause):
            service = merge(*looks, demand=said(1, finished=0), now=now).service if len(looks) > 1 else None
            if service is not None:
                assert service.arrived >= arrived
                arrived = service.arrived
    assert arrived <= answered


numbers = st.integers(0, 50)
looks_at = st.lists(st.tuples(numbers, numbers, numbers, st.booleans(), st.booleans()), min_size=2, max_size=20)


@given(looks_at, st.integers(0, 10**6))
def test_counts_the_same_at_any_time(seen: list[tuple[int, int, int, bool, bool]], shift: int) -> None:
    def run(start: float) -> tuple[int, bool]:
        looks = [
            look(
                start + 5.0 * n,
                busy(running, waiting, tokens=n, is_asleep=asleep, answered=n * running),
                gateways=replace(said(in_flight, finished=n), complete=heard),
            )
            for n, (running, waiting, in_flight, asleep, heard) in enumerate(seen)
        ]
        demand = merge(*looks)
        return demand.waiting, demand.complete

    assert run(0.0) == run(float(shift))


@given(looks_at)
def test_never_adds_more_than_engines_have_nor_takes_anything_away(
    seen: list[tuple[int, int, int, bool, bool]],
) -> None:
    looks = [
        look(5.0 * n, busy(running, waiting, tokens=n), gateways=replace(said(in_flight), complete=heard))
        for n, (running, waiting, in_flight, _, heard) in enumerate(seen)
    ]
    before = said(seen[-1][2], last=1.0)

    after = merge(*looks, demand=before)

    assert 0 <= after.waiting <= looks[-1].engines["0"].load
    assert (after.held, after.in_flight) == (before.held, before.in_flight)
    assert after.last_request_at is not None
    assert after.last_request_at >= 1.0
