"""How `bench burst` asks others what they would have done."""

from __future__ import annotations

from bench.autoscaling.hpa import SYNC, Hpa, Keda
from bench.burst import Moment, Workload, find_rise, judge

STEADY = Moment(asked_at=9.9, at=9.91, held=0, in_flight=1)
BURST = Moment(asked_at=10.25, at=10.27, held=30, in_flight=10)


def test_others_look_at_a_burst_at_their_next_sync() -> None:
    for scaler in (Hpa(), Keda(least=1)):
        assert find_rise(scaler, [STEADY, BURST], since=10.0, phase=4.0) == 4.0


def test_a_sync_that_comes_before_anybody_saw_the_burst_is_followed_by_another() -> None:
    assert round(find_rise(Hpa(), [STEADY, BURST], since=10.0, phase=0.25), 6) == SYNC + 0.25


def test_what_was_last_read_goes_on() -> None:
    few = Moment(asked_at=10.1, at=10.12, held=0, in_flight=8)
    many = Moment(asked_at=12.1, at=12.12, held=30, in_flight=10)

    assert find_rise(Hpa(), [STEADY, few, many], since=10.0, phase=1.0) == SYNC + 1.0


def test_a_burst_counts_from_the_last_time_that_the_gateways_were_asked_and_nobody_waited() -> None:
    calm = Moment(asked_at=10.02, at=10.03, held=0, in_flight=4)
    workload = Workload(replicas=8, rises=[(10.3, 2), (10.4, 6), (14.5, 8)], second_at=15.0)

    burst = judge(workload, [STEADY, calm, BURST], began=10.0)

    assert round(burst.until_more, 6) == 0.28
    assert (round(burst.until_last, 6), burst.asked_for) == (0.38, 6)


def test_no_burst_counts_from_before_it_began() -> None:
    workload = Workload(replicas=6, rises=[(10.3, 6)], second_at=15.0)

    assert round(judge(workload, [STEADY, BURST], began=10.0).until_more, 6) == 0.3
