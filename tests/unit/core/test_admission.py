from __future__ import annotations

from lull.api.llmdeployment import Key, LLMDeployment, parse_llmdeployment
from lull.core.admission import Admission, Demand, Limits, Verdict, build_limits

KEY = Key("team-a", "llama")
LIMITS = Limits(max_held=2, max_held_bytes=100, hold_seconds=60.0)
ROOMY = Limits(max_held=1000, max_held_bytes=1000, hold_seconds=60.0)


def deployment(hold_for: str = "Auto", cold_start: str | None = None) -> LLMDeployment:
    stages = dict.fromkeys(("scheduled", "image", "weights", "warmUp"), "1s")
    return parse_llmdeployment(
        {
            "metadata": {"namespace": "team-a", "name": "llama"},
            "spec": {"model": {"source": "hf://a/b"}, "queue": {"holdFor": hold_for, "maxHeldBytes": "1Ki"}},
            "status": {"coldStart": {"at": "2026-01-01T00:00:00Z", **stages, "total": cold_start}}
            if cold_start
            else {},
        }
    )


def test_a_request_with_capacity_goes_straight_through() -> None:
    admission = Admission()

    ticket, verdict, _ = admission.arrive(KEY, size=10, limits=LIMITS, free=1, now=0.0)
    admission.start(ticket)

    assert verdict is Verdict.ADMIT
    assert admission.sequence == 0
    assert admission.demand(now=1.0)[KEY].in_flight == 1


def test_granted_requests_use_up_capacity_before_they_have_an_endpoint() -> None:
    admission = Admission()

    admission.arrive(KEY, size=1, limits=LIMITS, free=1, now=0.0)

    assert admission.arrive(KEY, size=1, limits=LIMITS, free=1, now=0.0)[1] is Verdict.HOLD


def test_nobody_overtakes_those_who_wait() -> None:
    admission = Admission()
    first, *_ = admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0)

    assert admission.arrive(KEY, size=1, limits=LIMITS, free=1, now=0.0)[1] is Verdict.HOLD
    assert admission.release(KEY, free=lambda _: 1) == (first,)


def test_the_line_is_bounded_and_what_is_shed_has_counted_as_demand() -> None:
    admission = Admission()
    admission.arrive(KEY, size=60, limits=LIMITS, free=0, now=0.0)

    assert admission.arrive(KEY, size=60, limits=LIMITS, free=0, now=0.0)[1] is Verdict.SHED_BYTES
    assert admission.arrive(KEY, size=40, limits=LIMITS, free=0, now=0.0)[1] is Verdict.HOLD
    assert admission.arrive(KEY, size=0, limits=LIMITS, free=0, now=5.0)[1] is Verdict.SHED_COUNT
    demand = admission.demand(now=6.0)[KEY]
    assert (demand.held, demand.held_bytes, demand.arrived, demand.since_last) == (2, 100, 4, 1.0)
    assert admission.sequence == 4


def test_one_whose_engine_died_goes_to_the_front() -> None:
    admission = Admission()
    old, *_ = admission.arrive(KEY, size=1, limits=LIMITS, free=1, now=0.0)
    admission.start(old)
    young, *_ = admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=1.0)

    admission.hold_again(old)

    assert admission.release(KEY, free=lambda _: 2) == (old, young)


def test_tenants_take_turns_however_many_each_has_waiting() -> None:
    admission = Admission()
    tickets = [
        admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0, tenant=name).ticket
        for name in ("ann", "ann", "ann", "bob", "cy", "bob")
    ]

    assert [tickets.index(one) for one in admission.release(KEY, free=lambda _: 6)] == [0, 3, 4, 1, 5, 2]


def test_one_that_asks_again_as_soon_as_it_is_served_waits_for_its_next_turn() -> None:
    admission = Admission()
    for _ in range(4):
        admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0, tenant="flood")
    served = []

    for _ in range(6):
        admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0, tenant="steady")
        (ticket,) = admission.release(KEY, free=lambda _: 1)
        admission.leave(ticket, now=0.0)
        served.append(ticket.tenant)

    assert served == ["flood", "steady"] * 3


def test_a_tenant_has_one_turn_for_all_lanes_together() -> None:
    admission = Admission()
    for lane in ("a", "b", "c"):
        admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0, lane=lane, tenant="ann")
    admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0, lane="c", tenant="bob")

    released = admission.release(KEY, free=lambda _: 4)

    assert [(one.tenant, one.lane) for one in released] == [("ann", "a"), ("bob", "c"), ("ann", "b"), ("ann", "c")]


def test_a_lane_that_was_closed_gives_no_claim_to_the_turns_it_missed() -> None:
    admission = Admission()
    for _ in range(20):
        admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0, lane="slow", tenant="ann")
    for _ in range(20):
        admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0, tenant="bob")
    for ticket in admission.release(KEY, free=lambda lane: 0 if lane else 10):
        admission.leave(ticket, now=0.0)

    released = admission.release(KEY, free=lambda _: 7)

    assert [one.tenant for one in released] == ["ann", "ann", "bob", "ann", "bob", "ann", "bob"]


def test_higher_priority_goes_first_whatever_the_lower_ones_wait() -> None:
    admission = Admission()
    low = admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0, priority=-1).ticket
    usual = admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0).ticket
    high = [admission.arrive(KEY, size=1, limits=ROOMY, free=0, now=0.0, priority=5).ticket for _ in range(2)]

    assert admission.release(KEY, free=lambda _: 4) == (*high, usual, low)


def test_higher_priority_takes_the_place_of_the_newest_of_the_lowest() -> None:
    admission = Admission()
    first, second = (admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0).ticket for _ in range(2))

    arrival = admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0, priority=1)

    assert (arrival.verdict, arrival.displaced) == (Verdict.HOLD, (second,))
    assert admission.demand(now=0.0)[KEY].held == 2
    assert admission.release(KEY, free=lambda _: 9) == (arrival.ticket, first)


def test_higher_priority_displaces_as_many_as_its_bytes_need_and_none_in_vain() -> None:
    admission = Admission()
    small = [admission.arrive(KEY, size=40, limits=LIMITS, free=0, now=0.0).ticket for _ in range(2)]

    limits = Limits(max_held=9, max_held_bytes=100, hold_seconds=60.0)

    in_vain = admission.arrive(KEY, size=101, limits=limits, free=0, now=0.0, priority=1)
    fitting = admission.arrive(KEY, size=90, limits=limits, free=0, now=0.0, priority=1)

    assert (in_vain.verdict, in_vain.displaced) == (Verdict.SHED_BYTES, ())
    assert (fitting.verdict, fitting.displaced) == (Verdict.HOLD, (small[1], small[0]))


def test_a_tenant_that_fills_the_line_makes_room_for_another() -> None:
    admission = Admission()
    flood = [admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0, tenant="ann").ticket for _ in range(2)]

    first = admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0, tenant="bob")
    second = admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0, tenant="bob")

    assert (first.verdict, first.displaced) == (Verdict.HOLD, (flood[1],))
    assert (second.verdict, second.displaced) == (Verdict.SHED_COUNT, ())


def test_one_that_was_let_go_before_is_never_displaced() -> None:
    admission = Admission()
    old = admission.arrive(KEY, size=1, limits=LIMITS, free=1, now=0.0, priority=-1).ticket
    admission.hold_again(old)
    admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0, priority=1)

    assert admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0, priority=1).verdict is Verdict.SHED_COUNT


def test_what_another_model_serves_is_demand_and_waits_nowhere() -> None:
    admission = Admission()

    admission.note(KEY, now=3.0)

    assert admission.demand(now=5.0)[KEY] == Demand(held=0, held_bytes=0, in_flight=0, arrived=1, since_last=2.0)
    assert admission.sequence == 1
    admission.forget(KEY)
    assert admission.models == ()


def test_leaving_twice_counts_once() -> None:
    admission = Admission()
    ticket, *_ = admission.arrive(KEY, size=7, limits=LIMITS, free=0, now=0.0)

    admission.leave(ticket, now=1.0)
    admission.leave(ticket, now=9.0)

    demand = admission.demand(now=9.0)[KEY]
    assert (demand.held, demand.held_bytes, demand.since_last) == (0, 0, 8.0)


def test_a_model_that_is_gone_turns_its_line_away_in_order() -> None:
    admission = Admission()
    tickets = [admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0)[0] for _ in range(2)]

    assert admission.empty(KEY) == tuple(tickets)
    admission.forget(KEY)
    assert admission.models == ()
    for ticket in tickets:
        admission.leave(ticket, now=1.0)


def test_a_count_is_kept_while_something_is_in_flight() -> None:
    admission = Admission()
    ticket, *_ = admission.arrive(KEY, size=1, limits=LIMITS, free=1, now=0.0)

    admission.forget(KEY)

    assert admission.models == (KEY,)
    admission.start(ticket)


def test_the_hold_follows_the_measured_cold_start_within_bounds() -> None:
    assert build_limits(deployment()).hold_seconds == 600.0
    assert build_limits(deployment(cold_start="1m30s")).hold_seconds == 270.0
    assert build_limits(deployment(cold_start="5s")).hold_seconds == 120.0
    assert build_limits(deployment(cold_start="2h")).hold_seconds == 1800.0
    assert build_limits(deployment(cold_start="soon")).hold_seconds == 600.0
    assert build_limits(deployment("90s", cold_start="2h")).hold_seconds == 90.0
    assert build_limits(deployment()).max_held_bytes == 1024
