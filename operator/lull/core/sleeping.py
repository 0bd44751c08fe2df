"""When the replicas of an LLMDeployment sleep, and how one engine gets there and back, a step at a time.

    awake ──Mark──► spared ──FallAsleep──► asleep ──WakeUp──► spared ──Unmark──► awake

The mark is a condition of the pod. Gateways send nothing to a marked one, since requests hang in an engine that sleeps
while its /health says that all is well. It is set before the engine is told to sleep, and taken away after the engine
has said itself that it is awake; which of the four states an engine is in is read off both each time, so that an
operator that dies between two steps, and an engine that restarts, change nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.quantities import parse_duration
from lull.api.scaling import ScalingMode
from lull.api.timestamps import parse_timestamp, render_timestamp
from lull.core.enginemetrics import parse_metrics
from lull.core.replicas import exists, find_condition, is_asleep, is_ready
from lull.core.routing import parse_endpoint
from lull.core.schedules import find_floor
from lull.core.signals import find_latest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.api.llmdeployment import Manifest
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.signals import Demand

SETTLE_SECONDS: Final = 3.0
"""From the mark to sleep: gateways learn of it, and what they sent before shows in the engine."""
DEEPEST: Final = 2
"""Waking from it puts an engine right whatever level it sleeps at."""
SLEEP_SECONDS: Final = 60.0
WAKE_SECONDS: Final = 120.0
RELOAD_SECONDS: Final = 1800.0
"""Weights are read again, from whatever they were read from when the engine started."""
WAKE_TRIES: Final = 5
WAKE_TRYING_SECONDS: Final = 30.0
"""From the first of the tries: what ails an engine for a moment is over by then."""
REPLACE_SECONDS: Final = 60.0
"""Between two pods of an LLMDeployment that are replaced: they may all have caught the same."""

_LEVELS: Final = {"Level1": 1, "Level2": 2}


@unique
class Rest(StrEnum):
    """What is wanted of the replicas of one LLMDeployment."""

    AWAKE = "Awake"
    ASLEEP = "Asleep"
    STAY = "Stay"
    """Nobody knows better: what sleeps sleeps on, what is awake stays awake."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """For how long nothing has happened, on the clock of `now`."""

    last_request_at: float | None
    """When somebody last asked for anything, be it by `lull wake`."""
    since: float
    """When somebody began to look."""
    ready_at: float | None
    """When the youngest ready replica became ready."""


@dataclass(frozen=True, slots=True)
class Mark:
    level: int
    """That the engine is to sleep at, or does."""
    at: float
    """Seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class Sleeper:
    """One engine, as far as its pod tells."""

    uid: str
    pod: str
    url: str
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class State:
    """What an engine says of itself."""

    is_asleep: bool
    is_busy: bool


@dataclass(frozen=True, slots=True)
class Tries:
    """How often an engine was told to wake up, and did not."""

    count: int
    since: float
    """When it was for the first time."""


@dataclass(frozen=True, slots=True)
class Spare:
    """Mark the pod, so that gateways spare it."""

    level: int


@dataclass(frozen=True, slots=True)
class FallAsleep:
    level: int


@dataclass(frozen=True, slots=True)
class WakeUp:
    level: int


@dataclass(frozen=True, slots=True)
class Return:
    """Take the mark away."""


Step = Spare | FallAsleep | WakeUp | Return


def choose_rest(spec: LLMDeploymentSpec, demand: Demand | None, quiet: Quiet, *, now: float, wall: float) -> Rest:
    """What is wanted: all replicas of an LLMDeployment sleep and wake together.

    A demand that is not known whole puts nobody to sleep, and neither does a start of the operator, which has not
    looked on for long enough; no more do they wake anybody for whom nobody has asked of late.
    """
    sleep = spec.scaling.sleep
    if sleep is None or spec.scaling.mode is ScalingMode.SHADOW:
        return Rest.AWAKE
    if (demand is not None and demand.is_any) or find_floor(tuple(spec.scaling.schedules), wall) is not None:
        # Replicas that a schedule asks for are there to answer at once.
        return Rest.AWAKE
    after = parse_duration(sleep.after)
    last = None if demand is None else demand.last_request_at
    asked = find_latest(quiet.last_request_at, last)
    if asked is not None and now - asked < after:
        # A request that came and left wakes as well.
        return Rest.AWAKE
    if demand is None:
        return Rest.STAY
    seen_since = max(quiet.since if asked is None else asked, quiet.ready_at or quiet.since)
    is_quiet = demand.complete and now - seen_since >= after
    return Rest.ASLEEP if is_quiet else Rest.STAY


def find_level(spec: LLMDeploymentSpec) -> int:
    """The level at which engines sleep the next time."""
    sleep = spec.scaling.sleep
    return DEEPEST if sleep is None else sleep.level


def plan_step(sleeper: Sleeper, state: State, rest: Rest, *, level: int, wall: float) -> Step | None:
    """What to do next with one engine that answers; None where nothing is to be done, or not yet."""
    mark = sleeper.mark
    if state.is_asleep and mark is None:
        # Nobody knows at what level.
        return Spare(DEEPEST)
    match rest:
        case Rest.ASLEEP if not state.is_asleep:
            if mark is None or mark.level != level:
                return Spare(level)
            return FallAsleep(level) if _is_settled(mark, wall) and not state.is_busy else None
        case Rest.AWAKE if mark is not None and state.is_asleep:
            return WakeUp(mark.level)
        case Rest.AWAKE | Rest.STAY if mark is not None and not state.is_asleep:
            return Return()
        case _:
            return None


def is_hopeless(tries: Tries, now: float) -> bool:
    """Whether an engine will not wake up any more, so that its pod is to be replaced."""
    return tries.count >= WAKE_TRIES and now - tries.since >= WAKE_TRYING_SECONDS


@dataclass(frozen=True, slots=True)
class Call:
    """A POST to an engine."""

    path: str
    deadline: float
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


def build_sleep(level: int) -> Call:
    """What puts an engine to sleep."""
    # What comes in at the last moment is answered first, and what comes later is kept until it wakes.
    return Call("/sleep", SLEEP_SECONDS, (("level", str(level)), ("mode", "wait")))


def list_wake_up(level: int) -> tuple[Call, ...]:
    """What wakes an engine that sleeps at a level. All may be repeated, as after a wake-up that broke off."""
    if level == 1:
        return (Call("/wake_up", WAKE_SECONDS),)
    # Weights before the cache, so that there is room to read them.
    return (
        Call("/wake_up", WAKE_SECONDS, (("tags", "weights"),)),
        Call("/collective_rpc", RELOAD_SECONDS, body=b'{"method": "reload_weights"}'),
        Call("/wake_up", WAKE_SECONDS, (("tags", "kv_cache"),)),
    )


def parse_sleepers(pods: Iterable[Manifest]) -> tuple[Sleeper, ...]:
    """Engines of pods that are ready, by their kubelets' word."""
    return tuple(
        Sleeper(endpoint.uid, endpoint.pod, endpoint.origin, parse_mark(pod))
        for pod in pods
        if exists(pod) and is_ready(pod) and (endpoint := parse_endpoint(pod)) is not None
    )


def parse_mark(pod: Manifest) -> Mark | None:
    """The mark on a pod."""
    condition = find_condition(pod, names.CONDITION_ASLEEP)
    if condition is None or not is_asleep(pod):
        return None
    at = condition.get("lastTransitionTime")
    return Mark(_LEVELS.get(condition.get("reason", ""), DEEPEST), parse_timestamp(at) if at else 0.0)


def build_conditions(pod: Manifest, mark: Mark | None, *, wall: float) -> list[Manifest]:
    """The pod's conditions with this mark, or without one."""
    others = [one for one in pod["status"].get("conditions") or () if one["type"] != names.CONDITION_ASLEEP]
    condition = {
        "type": names.CONDITION_ASLEEP,
        "status": "False" if mark is None else "True",
        "reason": "Awake" if mark is None else f"Level{mark.level}",
        "message": "" if mark is None else "Gateways send it nothing until it is woken.",
        "lastTransitionTime": render_timestamp(wall),
    }
    return [*others, condition]


def parse_sleeping(content: bytes) -> bool:
    """Read an engine's `/is_sleeping`; ValueError for anything else."""
    try:
        answer = json.loads(content)["is_sleeping"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not what /is_sleeping says: {error!r}") from error
    if not isinstance(answer, bool):
        raise ValueError(f"not what /is_sleeping says: {answer!r}")  # noqa: TRY004  the content is wrong, not the call
    return answer


def parse_busy(content: bytes) -> bool:
    """Whether an engine's `/metrics` tell of requests in it; ValueError where they do not tell."""
    return parse_metrics(content).load > 0


def _is_settled(mark: Mark, wall: float) -> bool:
    # A clock that was set back leaves nobody between awake and asleep.
    return not 0 <= wall - mark.at < SETTLE_SECONDS
