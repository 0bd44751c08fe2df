"""`spec.scaling.schedules`: how many replicas the time of day asks for.

Times are read as Debian's cron reads them: one that a change of the clock leaves out comes when the clock has
changed, and one that it repeats comes once. A duration is time that passes, whatever clocks show meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from lull.api.llmdeployment import InvalidSpec
from lull.api.quantities import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.api.scaling import ScalingSpec, ScheduleSpec


@dataclass(frozen=True, slots=True)
class Floor:
    """The schedule that asks for the most replicas now."""

    replicas: int
    cron: str
    timezone: str
    begins_in: float = 0.0
    """Seconds until it begins; its replicas are asked for beforehand."""


def check_schedules(spec: ScalingSpec) -> None:
    """InvalidSpec names each schedule, or forecast, whose cron or time zone cannot be read."""
    problems = []
    for number, schedule in enumerate(spec.schedules):
        try:
            _list_starts(schedule, after=0.0)
        except _Unreadable as problem:
            problems.append(f"spec.scaling.schedules.{number}.{problem}")
    if spec.forecast is not None:
        try:
            _find_zone(spec.forecast.timezone)
        except _Unreadable as problem:
            problems.append(f"spec.scaling.forecast.{problem}")
    if problems:
        raise InvalidSpec("; ".join(problems))


def find_floor(schedules: Iterable[ScheduleSpec], wall: float, *, ahead: float = 0.0) -> Floor | None:
    """The highest minReplicas of the schedules that last now, or begin within `ahead`, the time that a start takes.

    `wall` is seconds since the Unix epoch. A schedule that cannot be read asks for nothing: the spec is refused for
    it, and the others still hold.
    """
    floors = [
        Floor(schedule.min_replicas, schedule.cron, schedule.timezone, max(0.0, begin - wall))
        for schedule in schedules
        if (begin := _find_begin(schedule, wall)) is not None and begin <= wall + ahead
    ]
    return max(floors, key=lambda floor: (floor.replicas, -floor.begins_in), default=None)


class _Unreadable(Exception):  # noqa: N818  becomes the end of a sentence
    """Which field of a schedule cannot be read, and what to write."""


def _find_begin(schedule: ScheduleSpec, wall: float) -> float | None:
    """When the one that lasts now began, else when the next begins; None where there is none."""
    earliest = wall - parse_duration(schedule.duration)
    try:
        starts = _list_starts(schedule, after=earliest)
    except _Unreadable:
        return None
    # Instants, as datetimes of one zone compare by what the clock shows. Where it shows an hour twice, the first start
    # to be listed can be the one before.
    return next((at for start in starts if (at := start.timestamp()) > earliest), None)


def _list_starts(schedule: ScheduleSpec, *, after: float) -> CronSim:
    """Every start, from about a time on."""
    zone = _find_zone(schedule.timezone)
    try:
        return CronSim(schedule.cron, datetime.fromtimestamp(after, zone))
    except CronSimError as error:
        message = f'cron: {schedule.cron!r} is no time ({error}): write for example "0 8 * * 1-5"'
        raise _Unreadable(message) from error


def _find_zone(timezone: str) -> ZoneInfo:
    try:
        # Read from the machine, or from the package tzdata, once per process.
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise _Unreadable(f"timezone: {timezone!r} is no time zone: write for example Europe/Berlin or UTC") from error
