from __future__ import annotations

from lull.api.llmdeployment import Key, LLMDeployment, parse_llmdeployment
from lull.core.admission import Admission, Limits, Verdict, build_limits

KEY = Key("team-a", "llama")
LIMITS = Limits(max_held=2, max_held_bytes=100, hold_seconds=60.0)


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

    ticket, verdict = admission.arrive(KEY, size=10, limits=LIMITS, free=1, now=0.0)
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
    first, _ = admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=0.0)

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
    old, _ = admission.arrive(KEY, size=1, limits=LIMITS, free=1, now=0.0)
    admission.start(old)
    young, _ = admission.arrive(KEY, size=1, limits=LIMITS, free=0, now=1.0)

    admission.hold_again(old)

    assert admission.release(KEY, free=lambda _: 2) == (old, young)


def test_leaving_twice_counts_once() -> None:
    admission = Admission()
    ticket, _ = admission.arrive(KEY, size=7, limits=LIMITS, free=0, now=0.0)

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
    ticket, _ = admission.arrive(KEY, size=1, limits=LIMITS, free=1, now=0.0)

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
