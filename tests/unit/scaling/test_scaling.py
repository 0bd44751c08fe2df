"""Scaling decisions by example: what a person would expect of each situation."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lull.api.reasons import ScalingReason
from lull.api.scaling import PolicyType, ScalingPolicy, ScheduleSpec, SelectPolicy
from lull.api.spec import LLMDeploymentSpec
from lull.core.budget import Cap
from lull.core.forecast import Ahead
from lull.core.learning import Objective
from lull.core.loading import find_patience
from lull.core.pacing import Pace
from lull.core.scaling import History, Policy, ReplicaCounts, build_policy, decide
from lull.core.signals import Demand, Service

POLICY = Policy(
    min_replicas=0,
    max_replicas=8,
    target_queue=4,
    target_in_flight=32,
    idle_after=600.0,
    scale_up=Pace(0.0, SelectPolicy.MAX, ()),
    scale_down=Pace(300.0, SelectPolicy.MAX, ()),
    schedules=(),
    capacity=None,
    manual=None,
)
HASTY = replace(POLICY, scale_down=Pace(0.0, SelectPolicy.MAX, ()))
MORNING = datetime(2026, 11, 23, 8, 0, tzinfo=UTC).timestamp()
"""A Monday."""
NONE = ReplicaCounts(asked=0, ready=0, loading=0, ready_at=None)


def ready(count: int, at: float = 0.0) -> ReplicaCounts:
    return ReplicaCounts(asked=count, ready=count, loading=0, ready_at=at)


def asked(held: int = 0, in_flight: int = 0, last: float | None = None, *, complete: bool = True) -> Demand:
    return Demand(held=held, in_flight=in_flight, waiting=0, last_request_at=last, complete=complete)


def test_wakes_for_the_first_held_request() -> None:
    decision = decide(POLICY, asked(held=1), NONE, history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (1, ScalingReason.ACTIVATED)
    assert decision.message == "0 → 1: 1 waiting and 0 in flight, nothing running; 0 ready, 1 loading"


def test_wakes_one_replica_for_ten_clients() -> None:
    assert decide(POLICY, asked(held=10), NONE, history=None, now=0.0, wall=0.0).replicas == 1


def test_wakes_as_many_replicas_as_a_burst_needs() -> None:
    assert decide(POLICY, asked(held=100), NONE, history=None, now=0.0, wall=0.0).replicas == 3


def test_wakes_although_the_client_has_left() -> None:
    decision = decide(POLICY, asked(last=9.5), NONE, history=None, now=10.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (1, ScalingReason.ACTIVATED)


def test_stays_asleep_while_nobody_asks() -> None:
    decision = decide(POLICY, asked(), NONE, history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (0, ScalingReason.AT_MINIMUM)


def test_goes_up_at_once_when_more_is_in_flight_than_the_target() -> None:
    decision = decide(POLICY, asked(in_flight=33), ready(1), history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (2, ScalingReason.IN_FLIGHT_ABOVE_TARGET)


def test_goes_up_when_more_waits_than_the_target() -> None:
    decision = decide(POLICY, asked(held=9, in_flight=28), ready(1), history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (2, ScalingReason.QUEUE_ABOVE_TARGET)


def test_waits_out_the_window_before_scaling_up() -> None:
    patient = replace(POLICY, scale_up=Pace(10.0, SelectPolicy.MAX, ()))
    first = decide(patient, asked(in_flight=64), ready(1), history=None, now=0.0, wall=0.0)

    early = decide(patient, asked(in_flight=64), ready(1), history=first.history, now=9.0, wall=0.0)
    late = decide(patient, asked(in_flight=64), ready(1), history=early.history, now=10.0, wall=0.0)

    assert (first.replicas, first.reason) == (1, ScalingReason.STABILIZING)
    assert early.replicas == 1
    assert late.replicas == 2


def test_waits_out_the_window_before_scaling_down() -> None:
    busy = decide(POLICY, asked(in_flight=128), ready(4), history=None, now=0.0, wall=0.0)

    early = decide(POLICY, asked(in_flight=1), ready(4), history=busy.history, now=299.0, wall=0.0)
    late = decide(POLICY, asked(in_flight=1), ready(4), history=early.history, now=300.0, wall=0.0)

    assert (early.replicas, early.reason) == (4, ScalingReason.STABILIZING)
    assert (late.replicas, late.reason) == (1, ScalingReason.LOAD_BELOW_TARGET)


def test_a_restart_does_not_cut_replicas_off() -> None:
    decision = decide(POLICY, asked(in_flight=1), ready(4), history=None, now=0.0, wall=0.0)

    assert decision.replicas == 4


def test_keeps_loading_replicas_when_demand_falls() -> None:
    loading = ReplicaCounts(asked=3, ready=1, loading=2, ready_at=0.0)

    decision = decide(HASTY, asked(in_flight=1), loading, history=None, now=1000.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (3, ScalingReason.LOADING)


def test_what_has_loaded_for_too_long_keeps_nothing_from_going() -> None:
    quick = replace(HASTY, cold_start=35.0, patience=find_patience(35.0))
    loading = ReplicaCounts(asked=4, ready=1, loading=3, ready_at=0.0, made_at=(0.0, 100.0))

    early = decide(quick, asked(in_flight=1), loading, history=None, now=1000.0, wall=0.0)
    # One of them is younger, and the third has no pod since 1000.
    later = decide(quick, asked(in_flight=1), loading, history=early.history, now=1850.0, wall=0.0)
    late = decide(quick, asked(in_flight=1), loading, history=later.history, now=2800.0, wall=0.0)

    assert (early.replicas, early.reason, early.stuck) == (4, ScalingReason.LOADING, 0)
    assert (later.replicas, later.reason, later.stuck) == (4, ScalingReason.LOADING, 1)
    assert (late.replicas, late.reason, late.stuck) == (1, ScalingReason.LOAD_BELOW_TARGET, 3)
    assert late.message.endswith("; 1 ready, 0 loading, 3 not ready for 30m")


def test_a_replica_that_is_asked_for_anew_is_waited_for_as_long() -> None:
    stuck = ReplicaCounts(asked=1, ready=0, loading=1, ready_at=None)
    first = decide(POLICY, asked(held=40), stuck, history=None, now=0.0, wall=0.0)

    both = replace(stuck, asked=2, loading=2)
    second = decide(POLICY, asked(held=40), both, history=first.history, now=7000.0, wall=0.0)
    early = decide(POLICY, asked(), both, history=second.history, now=14199.0, wall=0.0)
    late = decide(POLICY, asked(), both, history=early.history, now=14200.0, wall=0.0)

    assert (early.replicas, early.reason) == (2, ScalingReason.LOADING)
    assert (late.replicas, late.reason) == (0, ScalingReason.IDLE)


@pytest.mark.parametrize(("cold_start", "patience"), [(None, 7200), (1, 1800), (600, 3600), (86400, 7200)])
def test_the_last_cold_start_says_how_long_the_next_may_take(cold_start: float | None, patience: float) -> None:
    assert find_patience(cold_start) == patience


def test_does_not_go_down_on_what_only_some_gateways_say() -> None:

    decision = decide(HASTY, asked(in_flight=1, complete=False), ready(3), history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (3, ScalingReason.SIGNAL_MISSING)


def test_wakes_on_what_only_some_gateways_say() -> None:
    assert decide(POLICY, asked(held=1, complete=False), NONE, history=None, now=0.0, wall=0.0).replicas == 1


def test_sleeps_once_idle_counted_from_the_last_request() -> None:
    busy = decide(POLICY, asked(in_flight=1), ready(1), history=None, now=100.0, wall=0.0)

    early = decide(POLICY, asked(), ready(1), history=busy.history, now=699.0, wall=0.0)
    late = decide(POLICY, asked(), ready(1), history=early.history, now=700.0, wall=0.0)

    assert (early.replicas, early.reason) == (1, ScalingReason.WITHIN_TARGET)
    assert (late.replicas, late.reason) == (0, ScalingReason.IDLE)


def test_sleeps_once_idle_counted_from_readiness_where_that_came_later() -> None:
    assert decide(POLICY, asked(last=0.0), ready(1, at=500.0), history=None, now=1099.0, wall=0.0).replicas == 1
    assert decide(POLICY, asked(last=0.0), ready(1, at=500.0), history=None, now=1100.0, wall=0.0).replicas == 0


def test_looks_on_for_idle_after_where_every_gateway_has_just_started() -> None:
    first = decide(POLICY, asked(), ready(1), history=None, now=5000.0, wall=0.0)

    later = decide(POLICY, asked(), ready(1), history=first.history, now=5600.0, wall=0.0)

    assert (first.replicas, later.replicas) == (1, 0)


def test_stands_back_where_the_spec_names_a_number() -> None:
    manual = replace(POLICY, manual=3)

    decision = decide(manual, asked(held=500), ready(1), history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (3, ScalingReason.MANUAL)


def test_follows_a_lower_maximum_at_once() -> None:
    decision = decide(POLICY, asked(in_flight=9999), ready(20), history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (8, ScalingReason.AT_MAXIMUM)


def test_follows_a_higher_minimum_at_once() -> None:
    decision = decide(replace(POLICY, min_replicas=2), asked(), NONE, history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (2, ScalingReason.AT_MINIMUM)


def test_stands_back_as_far_as_the_pools_have_room() -> None:
    manual = replace(POLICY, manual=9, capacity=5)

    decision = decide(manual, asked(), ready(1), history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (5, ScalingReason.POOLS_FULL)
    assert decision.message == "1 → 5: spec.replicas is 9; the pools hold 5 at most"


def test_goes_no_higher_than_the_pools_have_room() -> None:
    small = replace(POLICY, capacity=3)

    up = decide(small, asked(in_flight=200), ready(1), history=None, now=0.0, wall=0.0)
    steady = decide(small, asked(in_flight=200), ready(3), history=up.history, now=1.0, wall=0.0)
    down = decide(small, asked(in_flight=200), ready(5), history=steady.history, now=2.0, wall=0.0)

    assert (up.replicas, up.reason) == (3, ScalingReason.POOLS_FULL)
    assert "the pools hold 3 at most" in up.message
    assert (steady.replicas, steady.reason) == (3, ScalingReason.POOLS_FULL)
    assert (down.replicas, down.reason) == (3, ScalingReason.POOLS_FULL)


def test_names_the_maximum_where_the_pools_have_room_for_it() -> None:
    decision = decide(replace(POLICY, capacity=8), asked(in_flight=999), ready(8), history=None, now=0.0, wall=0.0)

    assert decision.reason is ScalingReason.AT_MAXIMUM


def by(value: int, seconds: int, kind: PolicyType = PolicyType.PODS) -> ScalingPolicy:
    return ScalingPolicy(type=kind, value=value, period_seconds=seconds)


def test_adds_only_so_many_in_a_period() -> None:
    slow = replace(POLICY, scale_up=Pace(0.0, SelectPolicy.MAX, (by(2, 60),)))
    load = asked(in_flight=200)

    first = decide(slow, load, ready(1), history=None, now=0.0, wall=0.0)
    early = decide(slow, load, ready(3), history=first.history, now=59.0, wall=0.0)
    late = decide(slow, load, ready(3), history=early.history, now=60.0, wall=0.0)

    assert (first.replicas, first.reason) == (3, ScalingReason.LIMITED)
    assert "7 wanted, and behavior.scaleUp allows no more yet" in first.message
    assert (early.replicas, early.reason) == (3, ScalingReason.LIMITED)
    assert late.replicas == 5


def test_removes_only_so_many_in_a_period_even_when_idle() -> None:
    slow = replace(HASTY, scale_down=Pace(0.0, SelectPolicy.MAX, (by(1, 60),)))

    first = decide(slow, asked(last=0.0), ready(3), history=None, now=600.0, wall=0.0)
    early = decide(slow, asked(last=0.0), ready(2), history=first.history, now=659.0, wall=0.0)
    late = decide(slow, asked(last=0.0), ready(2), history=early.history, now=660.0, wall=0.0)

    assert (first.replicas, first.reason) == (2, ScalingReason.LIMITED)
    assert "0 wanted, and behavior.scaleDown allows no more yet" in first.message
    assert early.replicas == 2
    assert late.replicas == 1


def test_wakes_whatever_the_pace() -> None:
    percent = replace(POLICY, scale_up=Pace(0.0, SelectPolicy.MAX, (by(10, 60, PolicyType.PERCENT),)))

    decision = decide(percent, asked(held=100), NONE, history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (1, ScalingReason.LIMITED)


def test_wakes_nothing_while_scaling_up_is_disabled() -> None:
    frozen = replace(POLICY, scale_up=Pace(0.0, SelectPolicy.DISABLED, ()))

    decision = decide(frozen, asked(held=1), NONE, history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (0, ScalingReason.LIMITED)
    assert "1 wanted, and behavior.scaleUp is Disabled" in decision.message


def test_removes_nothing_while_scaling_down_is_disabled() -> None:
    frozen = replace(POLICY, scale_down=Pace(0.0, SelectPolicy.DISABLED, ()))

    decision = decide(frozen, asked(last=0.0), ready(3), history=None, now=9999.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (3, ScalingReason.LIMITED)


def test_follows_bounds_at_once_whatever_the_pace() -> None:
    frozen = Pace(0.0, SelectPolicy.DISABLED, ())
    policy = replace(POLICY, min_replicas=3, max_replicas=5, scale_up=frozen, scale_down=frozen)

    assert decide(policy, asked(), NONE, history=None, now=0.0, wall=0.0).replicas == 3
    assert decide(policy, asked(), ready(9), history=None, now=0.0, wall=0.0).replicas == 5


WORKDAYS = ScheduleSpec(cron="0 8 * * 1-5", duration="10h", min_replicas=2)


def test_is_awake_when_a_schedule_begins() -> None:
    policy = replace(POLICY, schedules=(WORKDAYS,))

    before = decide(policy, asked(), NONE, history=None, now=0.0, wall=MORNING - 0.001)
    begun = decide(policy, asked(), NONE, history=before.history, now=1.0, wall=MORNING)

    assert (before.replicas, before.reason) == (0, ScalingReason.AT_MINIMUM)
    assert (begun.replicas, begun.reason) == (2, ScalingReason.SCHEDULED)
    assert 'the schedule "0 8 * * 1-5" (UTC) keeps 2' in begun.message


def test_keeps_what_a_schedule_asks_for_however_idle() -> None:
    policy = replace(POLICY, schedules=(WORKDAYS,))

    decision = decide(policy, asked(last=0.0), ready(2), history=None, now=9 * 3600.0, wall=MORNING + 9 * 3600)

    assert (decision.replicas, decision.reason) == (2, ScalingReason.SCHEDULED)


def test_sleeps_when_a_schedule_ends_and_nobody_has_asked() -> None:
    policy = replace(POLICY, schedules=(WORKDAYS,))
    kept = decide(policy, asked(last=0.0), ready(2), history=None, now=35999.0, wall=MORNING + 35999)

    ended = decide(policy, asked(last=0.0), ready(2), history=kept.history, now=36000.0, wall=MORNING + 36000)

    assert (ended.replicas, ended.reason) == (0, ScalingReason.IDLE)


def test_demand_goes_above_a_schedule() -> None:
    policy = replace(POLICY, schedules=(WORKDAYS,))

    decision = decide(policy, asked(in_flight=100), ready(2), history=None, now=0.0, wall=MORNING)

    assert (decision.replicas, decision.reason) == (4, ScalingReason.IN_FLIGHT_ABOVE_TARGET)


def test_a_schedule_holds_where_demand_is_unknown() -> None:
    decision = decide(replace(POLICY, schedules=(WORKDAYS,)), None, NONE, history=None, now=0.0, wall=MORNING)

    assert (decision.replicas, decision.reason) == (2, ScalingReason.SIGNAL_MISSING)


def test_asks_for_a_schedules_replicas_a_cold_start_before_it_begins() -> None:
    policy = replace(POLICY, schedules=(WORKDAYS,), cold_start=90.0)

    early = decide(policy, asked(), NONE, history=None, now=0.0, wall=MORNING - 91)
    ahead = decide(policy, asked(), NONE, history=early.history, now=1.0, wall=MORNING - 90)

    assert early.replicas == 0
    assert (ahead.replicas, ahead.reason) == (2, ScalingReason.SCHEDULED)
    assert 'the schedule "0 8 * * 1-5" (UTC) begins in 1m30s and keeps 2' in ahead.message


def test_goes_no_higher_than_the_budget_pays_for() -> None:
    poor = replace(POLICY, min_replicas=1, cap=Cap(3, "9 an hour pays for 3 at 3 each"))

    up = decide(poor, asked(in_flight=200), ready(1), history=None, now=0.0, wall=0.0)
    down = decide(poor, asked(in_flight=200), ready(5), history=up.history, now=1.0, wall=0.0)
    manual = decide(replace(poor, manual=7), asked(), ready(1), history=None, now=0.0, wall=0.0)

    assert (up.replicas, up.reason) == (3, ScalingReason.AT_BUDGET)
    assert "9 an hour pays for 3 at 3 each" in up.message
    assert (down.replicas, down.reason) == (3, ScalingReason.AT_BUDGET)
    assert (manual.replicas, manual.reason) == (3, ScalingReason.AT_BUDGET)


def test_shadow_says_what_it_would_do_and_leaves_it() -> None:
    decision = decide(replace(POLICY, is_shadow=True), asked(in_flight=128), ready(1), history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.proposed, decision.reason) == (1, 4, ScalingReason.SHADOW)
    assert decision.message.startswith("1 → 1: Shadow; InFlightAboveTarget would make it 1 → 4: 0 waiting and 128")


LEARNING = replace(POLICY, objective=Objective(3.0, 0.1, 99), cold_start=60.0, max_replicas=20)


def carry(rate: float, *, kv_usage: float, ready_count: int, seconds: int = 300) -> tuple[History | None, Service]:
    """What is known after so many seconds of an even load."""
    history: History | None = None
    for second in range(seconds):
        done = round(rate * second)
        service = Service(done, done, met=done, missed=0, queued=0, reading=0.2, kv_usage=kv_usage, first_token=0.3)
        load = replace(asked(in_flight=20), service=service)
        decision = decide(LEARNING, load, ready(ready_count), history=history, now=float(second), wall=0.0)
        history = decision.history
    return history, service


def test_scales_by_what_replicas_were_seen_to_carry() -> None:
    history, service = carry(4.0, kv_usage=0.85, ready_count=4)

    load = replace(asked(in_flight=20), service=replace(service, arrived=service.arrived + 8))
    decision = decide(LEARNING, load, ready(4), history=history, now=301.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (5, ScalingReason.RATE_ABOVE_CAPACITY)
    assert "requests/s per replica, of which" in decision.message


def test_what_came_past_the_gateways_counts_though_it_is_known_what_replicas_carry() -> None:
    history, service = carry(4.0, kv_usage=0.85, ready_count=4)
    hasty = replace(LEARNING, scale_down=Pace(0.0, SelectPolicy.MAX, ()))

    for second in range(300, 900):
        load = replace(asked(), waiting=70, service=service)
        decision = decide(hasty, load, ready(4), history=history, now=float(second), wall=0.0)
        history = decision.history

    assert (decision.replicas, decision.reason) == (3, ScalingReason.LOAD_BELOW_TARGET)


@pytest.mark.parametrize(("seconds", "held"), [(300, 0), (1, 5)])
def test_sleeps_once_idle_whatever_was_learnt(seconds: int, held: int) -> None:
    """Neither the load of the last hour nor a wait of the last minute makes idleAfter longer."""
    history, service = carry(4.0, kv_usage=0.85, ready_count=4, seconds=seconds)
    hasty = replace(LEARNING, idle_after=10.0)
    last = float(seconds)
    load = replace(asked(held=held, last=last), service=service)
    history = decide(hasty, load, ready(4), history=history, now=last, wall=0.0).history

    quiet = replace(asked(last=last), service=service)
    soon = decide(hasty, quiet, ready(4), history=history, now=last + 9, wall=0.0)
    idle = decide(hasty, quiet, ready(4), history=soon.history, now=last + 11, wall=0.0)

    assert soon.replicas > 0
    assert (idle.replicas, idle.reason) == (0, ScalingReason.IDLE)


def test_target_in_flight_is_not_second_guessed() -> None:
    history, service = carry(4.0, kv_usage=0.85, ready_count=4)

    load = replace(asked(in_flight=20), service=service)
    told = replace(LEARNING, objective=None)
    decision = decide(told, load, ready(4), history=history, now=1000.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (1, ScalingReason.LOAD_BELOW_TARGET)
    assert "a target of 4 and 32 per replica" in decision.message


@pytest.mark.parametrize(
    ("engine", "target", "expected"),
    [({}, {}, 32), ({"maxNumSeqs": 8}, {}, 6), ({"maxNumSeqs": 1}, {}, 1), ({"maxNumSeqs": 8}, {"inFlight": 2}, 2)],
)
def test_derives_the_target_from_what_an_engine_runs_at_a_time(
    engine: dict[str, int], target: dict[str, int], expected: int
) -> None:
    spec = LLMDeploymentSpec.model_validate(
        {"model": {"source": "hf://org/name"}, "engine": engine, "scaling": {"target": target}}
    )

    assert build_policy(spec).target_in_flight == expected


WOKEN = replace(POLICY, woken_at=100.0)


def test_somebody_wakes_it_without_a_request() -> None:
    decision = decide(WOKEN, asked(), NONE, history=None, now=101.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (1, ScalingReason.WOKEN)
    assert decision.message == "0 → 1: woken by lull wake, nothing running; 0 ready, 1 loading"


def test_what_was_woken_falls_asleep_once_it_has_been_ready_for_as_long_as_an_idle_model_stays() -> None:
    woken = decide(WOKEN, asked(), NONE, history=None, now=101.0, wall=0.0)

    awake = decide(WOKEN, asked(), ready(1, at=160.0), history=woken.history, now=759.0, wall=0.0)
    idle = decide(WOKEN, asked(), ready(1, at=160.0), history=awake.history, now=760.0, wall=0.0)
    asleep = decide(WOKEN, asked(), NONE, history=idle.history, now=761.0, wall=0.0)

    assert (awake.replicas, idle.replicas, idle.reason) == (1, 0, ScalingReason.IDLE)
    assert asleep.replicas == 0


def test_a_wake_keeps_awake_what_is_awake() -> None:
    calm = decide(POLICY, asked(), ready(1), history=None, now=0.0, wall=0.0)

    decision = decide(replace(POLICY, woken_at=590.0), asked(), ready(1), history=calm.history, now=601.0, wall=0.0)

    assert decision.replicas == 1


def test_a_wake_adds_nothing_to_what_load_asks_for() -> None:
    assert decide(WOKEN, asked(in_flight=64), ready(2), history=None, now=101.0, wall=0.0).replicas == 2


def test_a_wake_needs_no_gateway() -> None:
    woken = decide(WOKEN, None, NONE, history=None, now=101.0, wall=0.0)
    late = decide(WOKEN, None, NONE, history=None, now=700.0, wall=0.0)

    assert (woken.replicas, woken.reason) == (1, ScalingReason.WOKEN)
    assert woken.message == "0 → 1: woken by lull wake; no gateway says what is asked for"
    assert (late.replicas, late.reason) == (0, ScalingReason.SIGNAL_MISSING)


@pytest.mark.parametrize("demand", [asked(), None])
def test_a_wake_stays_within_bounds(demand: Demand | None) -> None:
    broke = replace(WOKEN, cap=Cap(0, "0.00 of 10 are left this month"))
    disabled = replace(WOKEN, scale_up=Pace(0.0, SelectPolicy.DISABLED, ()))

    for policy in (broke, disabled, replace(WOKEN, manual=0)):
        assert decide(policy, demand, NONE, history=None, now=101.0, wall=0.0).replicas == 0


def test_says_about_when_what_loads_is_ready() -> None:
    quick = replace(POLICY, cold_start=35.0)
    loading = ReplicaCounts(asked=2, ready=1, loading=1, ready_at=0.0, made_at=(90.0,))

    more = decide(quick, asked(in_flight=90), loading, history=None, now=100.0, wall=0.0)
    same = decide(quick, asked(in_flight=60), loading, history=None, now=100.0, wall=0.0)
    late = decide(quick, asked(in_flight=60), loading, history=None, now=200.0, wall=0.0)

    assert more.message.endswith("; 1 ready, 2 loading, ready in about 35s")
    assert same.message.endswith("; 1 ready, 1 loading, ready in about 25s")
    assert late.message.endswith("; 1 ready, 1 loading, ready any moment")


def test_says_what_it_was_bounded_by() -> None:
    decision = decide(POLICY, asked(in_flight=1000), ready(1), history=None, now=0.0, wall=0.0)

    assert (decision.least, decision.wanted, decision.most) == (0, 8, 8)


def test_looks_ahead_of_what_is_asked_for() -> None:
    ahead = replace(POLICY, ahead=Ahead(3, "1.4 requests/s are usual at this time"))

    decision = decide(ahead, asked(), NONE, history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (3, ScalingReason.FORECAST)
    assert decision.message == (
        "0 → 3: 0 waiting and 0 in flight; 1.4 requests/s are usual at this time, which keeps 3; 0 ready, 3 loading"
    )


def test_a_forecast_keeps_what_is_there_and_no_more_than_there_may_be() -> None:
    ahead = replace(HASTY, max_replicas=4, ahead=Ahead(9, "it is usual"))

    kept = decide(ahead, asked(in_flight=1), ready(4), history=None, now=0.0, wall=0.0)
    capped = decide(
        replace(ahead, cap=Cap(2, "it pays for 2")), asked(in_flight=1), NONE, history=None, now=0.0, wall=0.0
    )

    assert (kept.replicas, kept.reason) == (4, ScalingReason.WITHIN_TARGET)
    assert capped.replicas == 2


def test_demand_goes_before_a_lower_forecast() -> None:
    ahead = replace(POLICY, ahead=Ahead(1, "it is usual"))

    decision = decide(ahead, asked(in_flight=100), ready(1), history=None, now=0.0, wall=0.0)

    assert (decision.replicas, decision.reason) == (4, ScalingReason.IN_FLIGHT_ABOVE_TARGET)


def test_the_minimum_is_named_where_it_is_higher_than_the_forecast() -> None:
    ahead = replace(POLICY, min_replicas=2, ahead=Ahead(2, "it is usual"))

    assert decide(ahead, asked(), NONE, history=None, now=0.0, wall=0.0).reason is ScalingReason.AT_MINIMUM
