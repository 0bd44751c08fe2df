"""Bring engines to where the autoscaler wants them, awake or asleep: observe → plan → execute, for each engine by itself.

Nothing is remembered between two looks, as the mark is on the pod, and the engine says itself whether it sleeps: but how
often one would not wake up, and when a pod was last replaced for that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from lull.core.sleeping import (
    REPLACE_SECONDS,
    FallAsleep,
    Mark,
    Rest,
    Return,
    Spare,
    State,
    Tries,
    WakeUp,
    build_conditions,
    build_sleep,
    find_level,
    is_hopeless,
    list_wake_up,
    parse_busy,
    parse_sleepers,
    parse_sleeping,
    plan_step,
)
from lull.doors import clock, metrics
from lull.doors.events import ScaledReason
from lull.doors.http import Unreachable
from lull.doors.kube import PODS, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import Key, LLMDeployment
    from lull.core.sleeping import Call, Sleeper, Step
    from lull.doors.events import Recorder
    from lull.doors.http import Http
    from lull.doors.kube import Kube
    from lull.doors.store import Store

log = structlog.get_logger(__name__)

WORKERS: Final = 64
"""LLMDeployments at a time: each may wait for its engines for minutes, and nobody waits for that of another."""

_ASK_SECONDS: Final = 5.0
_STEPS: Final = 4
"""From asleep to awake and back, and no further in one look."""
_STEADY_SECONDS: Final = 10.0
_MOVING_SECONDS: Final = 0.5
_FAILED_SECONDS: Final = 2.0


class _Refused(Exception):  # noqa: N818  the engine's no
    """What an engine answered to a step."""


@dataclass
class _Refusals:
    """Of the engines of one LLMDeployment, by uid of the pod."""

    tries: dict[str, Tries] = field(default_factory=dict)
    replaced_at: float | None = None


class Sleepers:
    """The work of the sleepers' queue."""

    def __init__(
        self,
        kube: Kube,
        http: Http,
        *,
        store: Store,
        recorder: Recorder,
        find_rest: Callable[[Key], Rest],
    ) -> None:
        self._kube = kube
        self._http = http
        self._store = store
        self._recorder = recorder
        self._find_rest = find_rest
        self._refusals: dict[Key, _Refusals] = {}

    def concerns(self, key: Key) -> bool:
        """Whether there is anything to do for an LLMDeployment: most never sleep."""
        deployment = self._store.find_deployment(key)
        return deployment is not None and (
            deployment.spec.scaling.sleep is not None or any(one.mark for one in self._list(key))
        )

    async def settle(self, key: Key) -> float | None:
        """Take the next steps with each engine of one LLMDeployment; seconds until the next look."""
        deployment = self._store.find_deployment(key)
        if deployment is None or deployment.deleting or not self.concerns(key):
            self._refusals.pop(key, None)
            return None
        # A write that failed must not keep the others from their steps, so all are waited for before it is told.
        ends = await asyncio.gather(
            *(self._tend(deployment, sleeper.uid) for sleeper in self._list(key)), return_exceptions=True
        )
        self._forget(key)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return min((end for end in ends if not isinstance(end, BaseException)), default=_STEADY_SECONDS)

    def _list(self, key: Key) -> tuple[Sleeper, ...]:
        return parse_sleepers(self._store.list_pods(key))

    async def _tend(self, deployment: LLMDeployment, uid: str) -> float:
        """Take steps with one engine until there is nothing to do, or to wait for; seconds until the next look."""
        for _ in range(_STEPS):
            sleeper = next((one for one in self._list(deployment.key) if one.uid == uid), None)
            if sleeper is None:
                return _STEADY_SECONDS
            # What is wanted may be another thing by the time that a step is done.
            rest = self._find_rest(deployment.key)
            step: Step | None = None
            try:
                state = await self._observe(sleeper, rest)
                step = plan_step(sleeper, state, rest, level=find_level(deployment.spec), wall=clock.wall())
                if step is None:
                    is_moving = rest is Rest.ASLEEP and not state.is_asleep
                    return _MOVING_SECONDS if is_moving else _STEADY_SECONDS
                await self._take(deployment, sleeper, step)
            except (Unreachable, _Refused, ValueError) as error:
                self._report_failure(deployment, sleeper, step, error)
                if isinstance(step, WakeUp):
                    await self._give_up(deployment, sleeper, error)
                return _FAILED_SECONDS
        return _MOVING_SECONDS

    async def _observe(self, sleeper: Sleeper, rest: Rest) -> State:
        """What the engine says; Unreachable or ValueError where it does not."""
        is_asleep = parse_sleeping(await self._get(sleeper, "/is_sleeping"))
        # Its gauges count only where it is to fall asleep; while it sleeps they stand still.
        asks = rest is Rest.ASLEEP and not is_asleep and sleeper.mark is not None
        return State(is_asleep, is_busy=asks and parse_busy(await self._get(sleeper, "/metrics")))

    async def _take(self, deployment: LLMDeployment, sleeper: Sleeper, step: Step) -> None:
        began = clock.monotonic()
        match step:
            case Spare(level):
                await self._mark(deployment.key, sleeper, Mark(level, clock.wall()))
            case Return():
                await self._mark(deployment.key, sleeper, None)
            case FallAsleep(level):
                await self._post(sleeper, build_sleep(level))
                self._recorder.record(
                    deployment, ScaledReason.ASLEEP, f"{sleeper.pod} sleeps at level {level}; a request wakes it"
                )
            case WakeUp(level):
                for call in list_wake_up(level):
                    await self._post(sleeper, call)
                if (refusals := self._refusals.get(deployment.key)) is not None:
                    refusals.tries.pop(sleeper.uid, None)
                took = clock.monotonic() - began
                metrics.WAKE_SECONDS.labels(str(level)).observe(took)
                self._recorder.record(deployment, ScaledReason.WOKEN, f"{sleeper.pod} woke up in {took:.1f}s")
        _count(step, "ok")
        seconds = round(clock.monotonic() - began, 3)
        log.info("sleep step", key=str(deployment.key), pod=sleeper.pod, step=repr(step), seconds=seconds)

    async def _mark(self, key: Key, sleeper: Sleeper, mark: Mark | None) -> None:
        """Write the mark on the pod as it was last seen; Transient (409) where it is another by now."""
        pod = next((one for one in self._store.list_pods(key) if one["metadata"]["uid"] == sleeper.uid), None)
        if pod is None:
            return
        conditions = build_conditions(pod, mark, wall=clock.wall())
        try:
            self._store.learn(await self._kube.patch_status(PODS, pod, {"conditions": conditions}))
        except Refused as error:
            if error.status != 404:
                raise

    async def _get(self, sleeper: Sleeper, path: str) -> bytes:
        return await self._http.get(f"{sleeper.url}{path}", query={}, deadline=_ASK_SECONDS)

    async def _post(self, sleeper: Sleeper, call: Call) -> None:
        url = f"{sleeper.url}{call.path}"
        answer = await self._http.ask(
            "POST", url, query=dict(call.query), body=call.body or None, deadline=call.deadline
        )
        if answer.status >= 300:
            words = answer.content[:300].decode(errors="replace")
            raise _Refused(f"POST {call.path} is answered {answer.status}: {words}")

    def _report_failure(self, deployment: LLMDeployment, sleeper: Sleeper, step: Step | None, error: Exception) -> None:
        if step is None:
            # An engine that is short of CPU answers late, and one that restarts not at all.
            log.debug("engine not asked", pod=sleeper.pod, error=str(error))
            return
        _count(step, "refused" if isinstance(error, _Refused) else "unreachable")
        log.warning("sleep step failed", key=str(deployment.key), pod=sleeper.pod, step=repr(step), error=str(error))
        if isinstance(step, WakeUp):
            message = f"{sleeper.pod} does not wake up, and is told to again: {error}"
            self._recorder.record(deployment, ScaledReason.WAKE_FAILED, message, warning=True)

    async def _give_up(self, deployment: LLMDeployment, sleeper: Sleeper, error: Exception) -> None:
        """Have the pod replaced where its engine has refused often enough; one after the other."""
        now, refusals = clock.monotonic(), self._refusals.setdefault(deployment.key, _Refusals())
        known = refusals.tries.get(sleeper.uid, Tries(0, now))
        tries = refusals.tries[sleeper.uid] = Tries(known.count + 1, known.since)
        is_too_soon = refusals.replaced_at is not None and now - refusals.replaced_at < REPLACE_SECONDS
        if is_too_soon or not is_hopeless(tries, now):
            return
        # Before anything is waited for: others are tended meanwhile.
        refusals.replaced_at = now
        await self._kube.delete(PODS, deployment.key.namespace, sleeper.pod, uid=sleeper.uid)
        metrics.SLEEP_STEPS.labels("replace", "ok").inc()
        log.warning("pod replaced", key=str(deployment.key), pod=sleeper.pod, tries=tries.count, error=str(error))
        message = f"{sleeper.pod} did not wake up in {tries.count} tries and is replaced: {error}"
        self._recorder.record(deployment, ScaledReason.REPLACED, message, warning=True)

    def _forget(self, key: Key) -> None:
        """Drop what was remembered of pods that are gone."""
        refusals = self._refusals.get(key)
        if refusals is not None:
            there = {sleeper.uid for sleeper in self._list(key)}
            refusals.tries = {uid: tries for uid, tries in refusals.tries.items() if uid in there}


def _count(step: Step, result: str) -> None:
    metrics.SLEEP_STEPS.labels(type(step).__name__.lower(), result).inc()
