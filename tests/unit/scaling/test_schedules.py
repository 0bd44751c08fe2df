"""Schedules over weekends, month ends and changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lull.api.llmdeployment import InvalidSpec
from lull.api.scaling import ScalingSpec, ScheduleSpec
from lull.core.manifests import build
from lull.core.schedules import Floor, check_schedules, find_floor
from tests.manifests import SETTINGS, manifest, stored

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def schedule(cron: str, duration: str, replicas: int = 1, *, timezone: str = "UTC") -> ScheduleSpec:
    return ScheduleSpec(cron=cron, duration=duration, min_replicas=replicas, timezone=timezone)


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def is_on(text: str, *schedules: ScheduleSpec) -> bool:
    return find_floor(schedules, utc(text)) is not None


def test_lasts_from_its_start_until_before_its_end() -> None:
    workday = schedule("0 8 * * 1-5", "10h")

    assert not is_on("2026-11-23T07:59:59.999", workday)
    assert is_on("2026-11-23T08:00:00", workday)
    assert is_on("2026-11-23T17:59:59.999", workday)
    assert not is_on("2026-11-23T18:00:00", workday)


def test_rests_at_the_weekend() -> None:
    workday = schedule("0 8 * * 1-5", "10h")

    assert is_on("2026-11-20T12:00:00", workday)
    assert not is_on("2026-11-21T12:00:00", workday)
    assert not is_on("2026-11-22T12:00:00", workday)


def test_reads_the_time_of_its_zone() -> None:
    berlin = schedule("0 8 * * *", "1h", timezone=BERLIN)

    # Eight in Berlin is six o'clock UTC in summer and seven in winter.
    assert is_on("2026-07-01T06:00:00", berlin)
    assert not is_on("2026-07-01T07:00:00", berlin)
    assert is_on("2026-12-01T07:00:00", berlin)
    assert not is_on("2026-12-01T06:59:00", berlin)


# On 29 March 2026 Berlin's clocks went from 02:00 CET (01:00 UTC) to 03:00 CEST; on 8 March New York's from 02:00 EST
# (07:00 UTC) to 03:00 EDT.
@pytest.mark.parametrize(("zone", "change"), [(BERLIN, "2026-03-29T01:00:00"), (NEW_YORK, "2026-03-08T07:00:00")])
def test_a_time_that_the_clock_leaves_out_comes_when_it_has_changed(zone: str, change: str) -> None:
    night = schedule("30 2 * * *", "45m", timezone=zone)
    begin = utc(change)

    assert find_floor([night], begin - 1) is None
    assert find_floor([night], begin) is not None
    assert find_floor([night], begin + 44 * 60) is not None
    assert find_floor([night], begin + 45 * 60) is None


# On 25 October 2026 Berlin's clocks go from 03:00 CEST (01:00 UTC) back to 02:00 CET; on 1 November New York's from
# 02:00 EDT (06:00 UTC) back to 01:00 EST.
@pytest.mark.parametrize(
    ("zone", "cron", "first"),
    [(BERLIN, "30 2 * * *", "2026-10-25T00:30:00"), (NEW_YORK, "30 1 * * *", "2026-11-01T05:30:00")],
)
def test_a_time_that_the_clock_shows_twice_comes_once(zone: str, cron: str, first: str) -> None:
    short, long = schedule(cron, "20m", timezone=zone), schedule(cron, "2h", timezone=zone)
    begin = utc(first)
    again = begin + 3600

    assert find_floor([short], begin) is not None
    assert find_floor([short], begin + 20 * 60) is None
    assert find_floor([short], again) is None
    assert find_floor([short], again + 10 * 60) is None
    # Begun at the first showing, it lasts through the second and by time that passes.
    assert all(find_floor([long], begin + minute * 60) is not None for minute in range(120))
    assert find_floor([long], begin + 7200) is None


@pytest.mark.parametrize(
    ("zone", "day"),
    [(BERLIN, "2026-03-28T23:00:00"), (BERLIN, "2026-10-24T22:00:00"), (NEW_YORK, "2026-03-08T05:00:00")],
)
def test_every_quarter_of_an_hour_comes_however_the_clock_changes(zone: str, day: str) -> None:
    often = schedule("*/15 * * * *", "5m", timezone=zone)
    begin = utc(day)

    states = [find_floor([often], begin + minute * 60) is not None for minute in range(4 * 60)]

    assert states == [minute % 15 < 5 for minute in range(4 * 60)]


def test_lasts_over_a_change_of_the_clock_by_time_that_passes() -> None:
    # From ten in the evening, ten hours: until nine where the night is an hour shorter, seven where it is longer.
    night = schedule("0 22 * * *", "10h", timezone=BERLIN)

    assert is_on("2026-03-29T06:59:00", night)
    assert not is_on("2026-03-29T07:00:00", night)
    assert is_on("2026-10-25T05:59:00", night)
    assert not is_on("2026-10-25T06:00:00", night)


def test_knows_how_long_months_are() -> None:
    closing = schedule("0 0 L * *", "24h")
    thirty_first = schedule("0 0 31 * *", "24h")

    assert is_on("2026-02-28T12:00:00", closing)
    assert is_on("2028-02-29T12:00:00", closing)
    assert not is_on("2028-02-28T12:00:00", closing)
    assert is_on("2026-04-30T12:00:00", closing)
    assert not is_on("2026-04-30T12:00:00", thirty_first)
    assert is_on("2026-05-31T12:00:00", thirty_first)


def test_lasts_from_one_month_and_year_into_the_next() -> None:
    long = schedule("0 18 31 12 *", "12h")

    assert is_on("2027-01-01T05:59:00", long)
    assert not is_on("2027-01-01T06:00:00", long)


def test_the_highest_of_those_that_last_counts() -> None:
    day = schedule("0 8 * * *", "10h", 2)
    noon = schedule("0 12 * * *", "1h", 5, timezone="UTC")

    assert find_floor([day, noon], utc("2026-11-23T11:00:00")) == Floor(2, "0 8 * * *", "UTC")
    assert find_floor([day, noon], utc("2026-11-23T12:30:00")) == Floor(5, "0 12 * * *", "UTC")
    assert find_floor([day, noon], utc("2026-11-23T13:00:00")) == Floor(2, "0 8 * * *", "UTC")


def test_one_that_begins_again_before_it_ends_lasts_on() -> None:
    always = schedule("0 * * * *", "90m")

    assert all(is_on(f"2026-11-23T{hour:02}:{minute:02}:00", always) for hour in range(24) for minute in (0, 29, 59))


def test_names_what_cannot_be_read() -> None:
    spec = ScalingSpec(
        schedules=[
            schedule("0 8 * * 1-5", "10h"),
            schedule("0 25 * * *", "10h"),
            schedule("0 8 * * *", "10h", timezone="Europe/Nowhere"),
            schedule("0 0 31 2 *", "10h"),
        ]
    )

    with pytest.raises(InvalidSpec) as refusal:
        check_schedules(spec)

    assert str(refusal.value).split("; ") == [
        "spec.scaling.schedules.1.cron: '0 25 * * *' is no time (Bad hour): write for example \"0 8 * * 1-5\"",
        "spec.scaling.schedules.2.timezone: 'Europe/Nowhere' is no time zone: write for example Europe/Berlin or UTC",
        "spec.scaling.schedules.3.cron: '0 0 31 2 *' is no time (Bad day-of-month): write for example \"0 8 * * 1-5\"",
    ]


def test_a_spec_with_an_unreadable_schedule_makes_no_children() -> None:
    wrong = {"cron": "0 25 * * *", "duration": "1h", "minReplicas": 1}

    with pytest.raises(InvalidSpec, match=r"schedules\.0\.cron"):
        build(stored(manifest(scaling={"schedules": [wrong]})), SETTINGS)


@pytest.mark.parametrize("timezone", ["Europe", "leapseconds", "europe/berlin", "A//B", "A/"])
def test_refuses_what_only_looks_like_a_time_zone(timezone: str) -> None:
    with pytest.raises(InvalidSpec, match="is no time zone"):
        check_schedules(ScalingSpec(schedules=[schedule("0 8 * * *", "1h", timezone=timezone)]))


def test_takes_what_can_be_read() -> None:
    check_schedules(ScalingSpec(schedules=[schedule("30 7 * JAN-JUN MON#1", "1h", timezone=NEW_YORK)]))


def test_what_cannot_be_read_leaves_the_others_alone() -> None:
    wrong, right = schedule("0 25 * * *", "1h", 5), schedule("0 8 * * *", "1h", 2)

    assert find_floor([wrong, right], utc("2026-11-23T08:00:00")) == Floor(2, "0 8 * * *", "UTC")
