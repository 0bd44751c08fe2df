"""What earlier days ask for, and when they are not to be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from math import cos, pi

import pytest

from lull.api.llmdeployment import InvalidSpec
from lull.api.scaling import ForecastSpec, ScalingSpec
from lull.core.forecast import STEP, Ahead, Forecast, Pattern, Series, Unusable, find_ahead, learn_forecast
from lull.core.learning import Knowledge
from lull.core.schedules import check_schedules
from lull.core.signals import Service
from lull.core.simulation.chance import Chance

DAY = 86400.0
MONDAY = datetime(2026, 1, 5, tzinfo=UTC).timestamp()


def series(days: float, rate: Callable[[float], float | None], *, begin: float = MONDAY) -> Series:
    """Arrivals a second, by what a function says of each step's beginning."""
    return Series(begin, STEP, tuple(rate(begin + number * STEP) for number in range(round(days * DAY / STEP))))


def office(at: float) -> float:
    """Nothing at night, and 4 a second from 8 to 18."""
    return 4.0 if 8 <= at % DAY / 3600 < 18 else 0.0


def learn(known: Series, *, ahead: float = 300.0, timezone: str = "UTC") -> Forecast:
    learnt = learn_forecast(known, wall=known.end, ahead=ahead, timezone=timezone)
    assert isinstance(learnt, Forecast), learnt
    return learnt


def why_not(known: Series, *, wall: float | None = None) -> str:
    learnt = learn_forecast(known, wall=known.end if wall is None else wall, ahead=300.0)
    assert isinstance(learnt, Unusable), learnt
    return learnt.message


def test_expects_what_came_at_the_same_time_of_earlier_days() -> None:
    known = series(4 + 7.75 / 24, office)

    forecast = learn(known)

    assert forecast.find_rate(known.end, ahead=60.0) == 0.0
    assert forecast.find_rate(known.end, ahead=20 * 60.0) == pytest.approx(4.0)
    assert forecast.find_rate(known.end + 15 * 60.0, ahead=0.0) == pytest.approx(8 / 3), "steps are smoothed"


def test_serves_for_an_hour_beyond_the_look_ahead() -> None:
    known = series(4.5, office)

    forecast = learn(known, ahead=600.0)

    assert forecast.find_rate(known.end + 3500.0, ahead=600.0) == pytest.approx(4.0)
    assert forecast.find_rate(known.end + 3700.0, ahead=600.0) is None
    assert forecast.find_rate(known.end - 1.0, ahead=600.0) is None


def test_looks_an_hour_ahead_at_most() -> None:
    known = series(4 + 6.5 / 24, office)

    forecast = learn(known, ahead=3 * 3600.0)

    assert forecast.find_rate(known.end, ahead=3 * 3600.0) == 0.0


@pytest.mark.parametrize("days", [0.8, 1.0, 2.0, 2.6])
def test_two_days_to_learn_from_and_one_to_try_it_on_are_the_least(days: float) -> None:
    assert why_not(series(days, office)) == "it takes 2 days to learn from and one to try it on, without long gaps"

    assert isinstance(learn(series(3.2, office)), Forecast)


def test_a_last_day_that_nobody_counted_says_nothing() -> None:
    known = series(6, office)

    holed = replace(known, values=(*known.values[:-150], *[None] * 150))

    assert why_not(holed) == "Prometheus knows too little of the last day"
    assert why_not(known, wall=known.end + DAY) == "Prometheus knows too little of the last day"


def test_gaps_of_earlier_days_are_left_out() -> None:
    gone = (MONDAY + 2 * DAY + 6 * 3600, MONDAY + 2 * DAY + 12 * 3600)
    known = series(5 + 8 / 24, lambda at: None if gone[0] <= at < gone[1] else office(at))

    assert learn(known).find_rate(known.end, ahead=600.0) == pytest.approx(4.0, rel=0.15)


def test_one_odd_day_does_not_count() -> None:
    odd = (MONDAY + 3 * DAY, MONDAY + 4 * DAY)
    known = series(6 + 9 / 24, lambda at: 50.0 if odd[0] <= at < odd[1] else office(at))

    assert learn(known).find_rate(known.end, ahead=600.0) == pytest.approx(4.0)


def test_what_does_not_come_again_is_not_expected() -> None:
    chance = Chance(1)
    levels = [8 * chance.uniform() for _ in range(8 * 24)]
    known = series(8, lambda at: levels[int((at - MONDAY) // 3600)])

    assert why_not(known) == "over the last days it would have been no better than to go by the load of the moment"


def test_a_load_that_hardly_moves_needs_no_forecast() -> None:
    assert "no better than to go by the load of the moment" in why_not(series(6, lambda _: 3.0))


def test_weekends_are_unlike_working_days() -> None:
    known = series(14 + 7.9 / 24, lambda at: office(at) if (at - MONDAY) // DAY % 7 < 5 else 0.0)
    saturday = series(12 + 7.9 / 24, lambda at: office(at) if (at - MONDAY) // DAY % 7 < 5 else 0.0)

    assert learn(known).find_rate(known.end, ahead=900.0) == pytest.approx(4.0)
    weekend = learn_forecast(saturday, wall=saturday.end, ahead=300.0)
    assert isinstance(weekend, Unusable) or weekend.find_rate(saturday.end, ahead=900.0) == 0.0


def test_one_day_of_the_week_may_be_like_itself_alone() -> None:
    def by_day(at: float) -> float:
        return 2.0 * ((at - MONDAY) // DAY % 7) * (1 - cos(2 * pi * at / DAY))

    known = series(28.25, by_day)

    forecast = learn(known)

    assert forecast.pattern is Pattern.WEEKLY
    assert forecast.find_rate(known.end, ahead=0.0) == pytest.approx(by_day(known.end), abs=0.1)


def test_a_holiday_lowers_what_a_working_day_asks_for() -> None:
    today = MONDAY + 9 * DAY
    known = series(9 + 11 / 24, lambda at: office(at) / 8 if at >= today else office(at))

    learnt = learn_forecast(known, wall=known.end, ahead=300.0)

    assert isinstance(learnt, Unusable) or (learnt.find_rate(known.end, ahead=0.0) or 0.0) == pytest.approx(0.5)


def test_days_repeat_by_the_clock_on_the_wall() -> None:
    begin = datetime(2026, 3, 25, tzinfo=UTC).timestamp()
    changed = datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp()

    def berlin(at: float) -> float:
        return office(at + (7200 if at >= changed else 3600))

    monday = series(5 + 5.9 / 24, berlin, begin=begin)

    assert learn(monday, timezone="Europe/Berlin").find_rate(monday.end, ahead=900.0) == pytest.approx(4.0)
    by_utc = learn_forecast(monday, wall=monday.end, ahead=300.0)
    assert isinstance(by_utc, Unusable) or by_utc.find_rate(monday.end, ahead=900.0) == 0.0


def test_a_zone_that_does_not_exist_is_refused_with_the_spec_and_harms_nothing() -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.scaling\.forecast\.timezone: 'Mars/Base' is no time zone: write for"):
        check_schedules(ScalingSpec(forecast=ForecastSpec(timezone="Mars/Base")))

    learnt = learn_forecast(series(5, office), wall=MONDAY + 5 * DAY, ahead=300.0, timezone="Mars/Base")
    assert learnt == Unusable("'Mars/Base' is no time zone")


def test_the_future_of_a_series_is_not_known() -> None:
    known = series(4 + 7.75 / 24, office)
    longer = replace(known, values=(*known.values, *[99.0] * 50))

    assert learn_forecast(longer, wall=known.end, ahead=300.0) == learn(known)


FORECAST = Forecast(MONDAY, STEP, (2.0,) * 20, Pattern.DAILY)
KNOWN = Knowledge(0.0, Service(0, 0), 1, 0.0, 0.0, capacity=0.5, evidence=100.0)


def test_expected_requests_are_as_many_replicas_as_carry_them() -> None:
    assert find_ahead(FORECAST, KNOWN, wall=MONDAY, cold_start=60.0, carried=9.0) == Ahead(
        4, "2 requests/s are usual at this time"
    )


def test_the_target_counts_where_nothing_was_learnt() -> None:
    unknown = replace(KNOWN, evidence=1.0)

    by_target = find_ahead(FORECAST, unknown, wall=MONDAY, cold_start=None, carried=0.9)

    assert by_target is not None
    assert by_target.replicas == 3
    assert find_ahead(FORECAST, None, wall=MONDAY, cold_start=None, carried=None) is None


def test_a_request_now_and_then_keeps_no_replica() -> None:
    rarely = replace(FORECAST, rates=(0.01,) * 20)

    ahead = find_ahead(rarely, KNOWN, wall=MONDAY, cold_start=None, carried=None)

    assert ahead is not None
    assert ahead.replicas == 0


def test_an_old_forecast_says_nothing() -> None:
    assert find_ahead(FORECAST, KNOWN, wall=MONDAY + 2 * 3600, cold_start=60.0, carried=None) is None
