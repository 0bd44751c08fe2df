"""Production's `decide`, as it sees a simulated fleet."""

from __future__ import annotations

from dataclasses import replace

from lull.api.reasons import ScalingReason
from lull.core.forecast import DAY, STEP, Series
from lull.core.simulation.fleet import MONDAY, Options, Request, simulate
from lull.core.simulation.foresight import Past
from lull.core.simulation.policies import parse_policy
from lull.core.simulation.scalers import LullScaler
from tests.fakes.views import make_view
from tests.unit.simulation.models import linear

MODEL = linear(max_num_seqs=40)
NOTHING = make_view(wall=MONDAY, asked=0)


def scaler(policy: str, *, poll_delay: float = 0.0, price: float | None = None) -> LullScaler:
    return LullScaler(parse_policy(policy, file="policy.yaml"), poll_delay=poll_delay, price=price)


def test_wakes_for_a_held_request_and_sleeps_when_nobody_has_asked_for_idle_after() -> None:
    lull = scaler("{minReplicas: 0, idleAfter: 5m}")

    outcome = simulate([Request(100.5, 500, 100)], lull, MODEL, Options(cold_start=60.0, until=1000.0), 0)

    assert (outcome.finished, outcome.wakes) == (1, 1)
    assert [(change.from_replicas, change.to_replicas, change.reason) for change in lull.changes] == [
        (0, 1, ScalingReason.ACTIVATED),
        (1, 0, ScalingReason.IDLE),
    ]
    woken, slept = lull.changes
    assert woken.at == 100.52
    assert 300 <= slept.at - 160.52 <= 303, "five minutes after the answer, which came soon after the start"


def test_follows_the_load_up_and_down() -> None:
    lull = scaler("{minReplicas: 1, maxReplicas: 4, target: {inFlight: 8}}")
    burst = [Request(10.0 + number * 0.05, 1000, 400) for number in range(2000)]

    outcome = simulate(burst, lull, MODEL, Options(cold_start=30.0, initial_replicas=1, until=1000.0), 0)

    assert outcome.finished == 2000
    assert outcome.most_replicas == 4
    assert outcome.samples[-1].asked == 1


def test_a_schedule_counts_by_the_clock_on_the_wall() -> None:
    lull = scaler("{schedules: [{cron: '0 8 * * 1', duration: 1h, minReplicas: 2}]}")

    simulate([], lull, MODEL, Options(begins=MONDAY + 7.5 * 3600, until=2 * 3600.0), 0)

    up, *_, down = lull.changes
    assert (up.to_replicas, down.to_replicas) == (2, 0)
    assert 1500 <= up.at <= 1801
    assert down.at >= 5400


def test_hears_of_demand_as_late_as_polls_are() -> None:
    lull = scaler("{minReplicas: 0}", poll_delay=2.0)

    decided = [lull.scale(replace(NOTHING, now=now, held=now >= 1, arrived=now >= 1)) for now in (0.0, 1.0, 2.0, 3.0)]

    assert decided == [0, 0, 0, 1]


def test_manual_replicas_are_obeyed() -> None:
    lull = scaler("{replicas: 3, scaling: {maxReplicas: 8}}")

    outcome = simulate([], lull, MODEL, Options(until=100.0), 0)

    assert outcome.mean_replicas == 3.0


def test_a_budget_holds_replicas_down() -> None:
    policy = "{minReplicas: 1, maxReplicas: 8, target: {inFlight: 8}, budget: {perHour: '5'}}"
    burst = [Request(number * 0.05, 1000, 400) for number in range(2000)]
    options = Options(cold_start=30.0, initial_replicas=1)

    rich = simulate(burst, LullScaler(parse_policy(policy, file="p")), MODEL, options, 0)
    poor = simulate(burst, LullScaler(parse_policy(policy, file="p"), price=2.0), MODEL, options, 0)

    assert rich.most_replicas == 8
    assert poor.most_replicas == 2


def test_shadow_mode_is_played_as_if_it_were_active() -> None:
    lull = scaler("{minReplicas: 2, mode: Shadow}")

    assert simulate([], lull, MODEL, Options(until=10.0), 0).mean_replicas == 2.0


def test_a_forecast_is_ready_when_the_day_begins() -> None:
    def play(policy: str, past: Past | None) -> tuple[float, list[ScalingReason]]:
        lull = LullScaler(parse_policy(policy, file="policy.yaml"), past=past)
        morning = [Request(1800.0 + 2.0 * number, 500, 100) for number in range(900)]
        options = Options(cold_start=120.0, begins=MONDAY + 7.5 * 3600, until=3600.0, initial_replicas=0)
        outcome = simulate(morning, lull, MODEL, options, 0)
        return outcome.longest_hold, [change.reason for change in lull.changes]

    days = (0.5 if 8 <= number * STEP / 3600 % 24 < 18 else 0.0 for number in range(round((5 * 24 + 7.5) * 12)))
    past = Past(Series(MONDAY - 5 * DAY, STEP, tuple(days)), seconds=4.0)

    alone = play("{maxReplicas: 4, target: {inFlight: 8}}", past)
    ahead = play("{maxReplicas: 4, target: {inFlight: 8}, forecast: {}}", past)
    unlearnt = play("{maxReplicas: 4, target: {inFlight: 8}, forecast: {}}", None)

    assert alone == unlearnt
    assert alone[0] > 100
    assert (ahead[0], ahead[1][0]) == (0.0, ScalingReason.FORECAST)
