"""`spec.scaling`: how many replicas Lull keeps."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Annotated

from pydantic import Field

from lull.api.base import LIST_ATOMIC, ApiModel, Duration, Rule, TimeZone, bound_duration
from lull.api.quantities import parse_duration


@unique
class PolicyType(StrEnum):
    PODS = "Pods"
    PERCENT = "Percent"


@unique
class SelectPolicy(StrEnum):
    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@unique
class ScalingMode(StrEnum):
    ACTIVE = "Active"
    SHADOW = "Shadow"


class TargetSpec(ApiModel):
    queue_length: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description=(
                "Requests per replica that may wait (held at the gateway, or queued in the engines) on top of the "
                "inFlight that it works on; more add a replica. Immediate."
            ),
        ),
    ] = 4
    in_flight: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000,
            description=(
                "Requests in flight per replica. Default: as many as replicas were seen to carry within spec.slo; "
                "where that is not known four fifths of engine.maxNumSeqs, or 32 where that is not set. Immediate."
            ),
        ),
    ] = None


class SloSpec(ApiModel):
    rules = (
        bound_duration("time_to_first_token", "10ms", "1h"),
        bound_duration("time_per_output_token", "1ms", "1m"),
    )

    time_to_first_token: Annotated[
        Duration, Field(description="Longest time until an answer begins, between 10ms and 1h. Immediate.")
    ] = "3s"  # noqa: S105  a duration
    time_per_output_token: Annotated[
        Duration,
        Field(description="Longest time from one token to the next, on average, between 1ms and 1m. Immediate."),
    ] = "100ms"  # noqa: S105  likewise
    percentile: Annotated[
        int,
        Field(ge=50, le=99, description="Share of the requests, in per cent, that are to be as quick. Immediate."),
    ] = 99


class ScheduleSpec(ApiModel):
    rules = (bound_duration("duration", "1m", "168h"),)

    cron: Annotated[
        str,
        Field(
            pattern=r"^[0-9A-Za-z*/,#L-]+( [0-9A-Za-z*/,#L-]+){4}$",
            max_length=128,
            description='When it begins: minute, hour, day of month, month, day of week, as in "0 8 * * 1-5". Immediate.',
        ),
    ]
    timezone: Annotated[
        TimeZone, Field(description="Time zone that cron is read in, such as Europe/Berlin. Immediate.")
    ] = "UTC"
    duration: Annotated[Duration, Field(description="How long it lasts, between 1m and 168h. Immediate.")]
    min_replicas: Annotated[int, Field(ge=1, le=1000, description="Fewest replicas while it lasts. Immediate.")]


class ScalingPolicy(ApiModel):
    type: Annotated[PolicyType, Field(description="Whether value counts Pods or is a Percent of what runs. Immediate.")]
    value: Annotated[int, Field(ge=1, le=1000, description="Most change within periodSeconds. Immediate.")]
    period_seconds: Annotated[int, Field(ge=1, le=1800, description="Time over which it is counted. Immediate.")]


class _Pace(ApiModel):
    """What holds for both directions."""

    select_policy: Annotated[
        SelectPolicy,
        Field(description="Which of the policies counts: the one with most change, with least, or no change at all."),
    ] = SelectPolicy.MAX
    policies: Annotated[
        list[ScalingPolicy],
        Field(
            max_length=8,
            description="Limits on how fast the number of replicas changes. Default: none. Immediate.",
            json_schema_extra=LIST_ATOMIC,
        ),
    ] = []


class ScaleUpRules(_Pace):
    stabilization_window_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=3600,
            description="For how long more replicas must be recommended before they are added, in seconds. Immediate.",
        ),
    ] = 0


class ScaleDownRules(_Pace):
    stabilization_window_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            le=3600,
            description=(
                "For how long fewer replicas must be recommended before they go, in seconds. Default: as long as the "
                "last measured cold start, at least 60 and at most 600; 300 before the first. Immediate."
            ),
        ),
    ] = None


class BehaviorSpec(ApiModel):
    scale_up: Annotated[ScaleUpRules, Field(description="Rules for adding replicas.")] = ScaleUpRules()
    scale_down: Annotated[ScaleDownRules, Field(description="Rules for removing replicas.")] = ScaleDownRules()


_AMOUNT = r"^[0-9]{1,9}(\.[0-9]{1,4})?$"


class BudgetSpec(ApiModel):
    rules = (
        Rule(
            "has(self.perHour) || has(self.perMonth)",
            lambda budget: budget.per_hour is not None or budget.per_month is not None,
            "budget needs perHour, perMonth or both",
        ),
    )

    per_hour: Annotated[
        str | None,
        Field(
            pattern=_AMOUNT,
            max_length=14,
            description=(
                "Most that all replicas may cost at a time, per hour, as text in the currency of the operator's prices: "
                '"12.50". Default: no limit. Immediate.'
            ),
        ),
    ] = None
    per_month: Annotated[
        str | None,
        Field(
            pattern=_AMOUNT,
            max_length=14,
            description=(
                "Most that they may cost in a calendar month (UTC), as text. What is left is made to last a day: the "
                "nearer its end, the fewer replicas; with nothing left none. Default: no limit. Immediate."
            ),
        ),
    ] = None


class SleepSpec(ApiModel):
    rules = (bound_duration("after", "5s", "168h", path="sleep.after"),)

    level: Annotated[
        int,
        Field(
            ge=1,
            le=2,
            description=(
                "1: weights go to the pod's memory, and are back within seconds; 2: they are dropped, and read again. "
                "From the next time that it falls asleep."
            ),
        ),
    ] = 1
    after: Annotated[
        Duration,
        Field(
            description=(
                "Time without demand after which replicas fall asleep, counted as for idleAfter; between 5s and 168h. "
                "Immediate."
            )
        ),
    ] = "2m"


class ForecastSpec(ApiModel):
    days: Annotated[
        int,
        Field(
            ge=3,
            le=56,
            description=(
                "How many days of Prometheus' history it is learnt from, between 3 and 56; 14 tell working days from "
                "weekends, and one Monday from another. Immediate."
            ),
        ),
    ] = 14
    timezone: Annotated[
        TimeZone, Field(description="Time zone whose clock days repeat by, such as Europe/Berlin. Immediate.")
    ] = "UTC"


class ScalingSpec(ApiModel):
    rules = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            lambda scaling: scaling.min_replicas <= scaling.max_replicas,
            "minReplicas must not be greater than maxReplicas",
        ),
        Rule(
            "self.schedules.all(schedule, schedule.minReplicas <= self.maxReplicas)",
            lambda scaling: all(schedule.min_replicas <= scaling.max_replicas for schedule in scaling.schedules),
            "a schedule's minReplicas must not be greater than maxReplicas",
        ),
        Rule(
            "!has(self.sleep) || self.minReplicas > 0 || duration(self.sleep.after) < duration(self.idleAfter)",
            lambda scaling: (
                scaling.sleep is None
                or scaling.min_replicas > 0
                or parse_duration(scaling.sleep.after) < parse_duration(scaling.idle_after)
            ),
            "sleep.after must be shorter than idleAfter, after which the last replica goes",
        ),
    )

    mode: Annotated[
        ScalingMode,
        Field(
            description=(
                "Active: decisions are carried out. Shadow: they are recorded in status.decisions, and the replicas "
                "stay as they are, or as spec.replicas says. Immediate."
            )
        ),
    ] = ScalingMode.ACTIVE
    min_replicas: Annotated[
        int, Field(ge=0, le=1000, description="Fewest replicas; 0 lets the model sleep when nobody asks. Immediate.")
    ] = 0
    max_replicas: Annotated[int, Field(ge=1, le=1000, description="Most replicas. Immediate.")] = 8
    target: Annotated[TargetSpec, Field(description="Load that one replica should carry.")] = TargetSpec()
    idle_after: Annotated[
        Duration,
        Field(
            description=(
                "Time without demand after which the last replica goes, counted from the later of the last request "
                "and the pod's becoming ready. Immediate."
            )
        ),
    ] = "10m"
    sleep: Annotated[
        SleepSpec | None,
        Field(
            description=(
                "vLLM's sleep mode between busy and gone: replicas that nobody asks for leave the accelerator's memory "
                "and keep their pods, minReplicas too; the next request wakes them. Default: none; setting and removing "
                "it restarts the pods."
            )
        ),
    ] = None
    schedules: Annotated[
        list[ScheduleSpec],
        Field(
            max_length=16,
            description="Times at which more than minReplicas are kept. Default: none. Immediate.",
            json_schema_extra=LIST_ATOMIC,
        ),
    ] = []
    forecast: Annotated[
        ForecastSpec | None,
        Field(
            description=(
                "Replicas for what came at the same time of earlier days, asked for a cold start beforehand, where the "
                "last day shows that this would have helped; {} for the defaults. Needs the operator's Prometheus. "
                "Default: none."
            )
        ),
    ] = None
    budget: Annotated[
        BudgetSpec | None,
        Field(description="What the replicas may cost; fewer run where it is reached. Default: no limit."),
    ] = None
    behavior: Annotated[
        BehaviorSpec, Field(description="How fast recommendations are followed, in the words of autoscaling/v2.")
    ] = BehaviorSpec()
