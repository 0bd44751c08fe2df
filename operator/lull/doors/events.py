"""Kubernetes Events about LLMDeployments: few, each with a reason of a closed set, never a flood."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum, unique
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from lull.api import names
from lull.doors import clock, metrics
from lull.doors.kube import Refused, Transient

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.reasons import Reason
    from lull.doors.kube import Kube

K = TypeVar("K")
V = TypeVar("V")

log = structlog.get_logger(__name__)

REPEAT_AFTER: Final = 300.0
"""The same words about the same object are not said again for so many seconds."""
# For each LLMDeployment by itself, so that a noisy one silences no other; numbers of the order of client-go's.
BURST: Final = 25
REFILL_SECONDS: Final = 5.0
_REMEMBERED: Final = 4096
_WAITING: Final = 1000
_MESSAGE: Final = 1024


@unique
class ScaledReason(StrEnum):
    """What the autoscaler did, as the reason of an Event."""

    ACTIVATED = "Activated"
    SCALED_UP = "ScaledUp"
    SCALED_DOWN = "ScaledDown"
    SCALED_TO_ZERO = "ScaledToZero"
    AT_BUDGET = "AtBudget"
    """More replicas are wanted than `scaling.budget` pays for."""
    STUCK = "ReplicaStuck"
    """A replica that is on its way for too long keeps others from going no more."""
    ASLEEP = "Asleep"
    WOKEN = "Woken"
    WAKE_FAILED = "WakeFailed"
    REPLACED = "Replaced"
    """A pod whose engine would not wake up."""


@dataclass(frozen=True, slots=True)
class _Said:
    first_at: float
    last_at: float
    count: int
    message: str


@dataclass(frozen=True, slots=True)
class _Allowance:
    """How many Events an LLMDeployment may have at once, as of a time."""

    left: float
    at: float


@dataclass(frozen=True, slots=True)
class _News:
    deployment: LLMDeployment
    reason: Reason | ScaledReason
    message: str
    warning: bool


class Recorder:
    """Takes what there is to say without waiting, and posts it in the background."""

    def __init__(self, kube: Kube, reporter: str) -> None:
        self._kube = kube
        self._reporter = reporter
        self._news: asyncio.Queue[_News] = asyncio.Queue(_WAITING)
        self._said: OrderedDict[tuple[str, str], _Said] = OrderedDict()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()

    def record(
        self, deployment: LLMDeployment, reason: Reason | ScaledReason, message: str, *, warning: bool = False
    ) -> None:
        """Say something about an LLMDeployment; dropped where too much waits to be said."""
        try:
            self._news.put_nowait(_News(deployment, reason, message[:_MESSAGE], warning))
        except asyncio.QueueFull:
            metrics.EVENTS_POSTED.labels("dropped").inc()

    async def run(self) -> None:
        """Post for ever. An Event that cannot be posted is lost: status says the same."""
        while True:
            news = await self._news.get()
            manifest = self._admit(news, clock.monotonic())
            if manifest is None:
                continue
            try:
                await self._kube.apply(manifest)
            except (Transient, Refused) as error:
                metrics.EVENTS_POSTED.labels("failed").inc()
                log.warning("event not posted", reason=news.reason, error=str(error))
            else:
                metrics.EVENTS_POSTED.labels("ok").inc()

    def _admit(self, news: _News, now: float) -> Manifest | None:
        identity = (news.deployment.uid, news.reason.value)
        said = self._said.get(identity)
        if said is not None and said.message == news.message and now - said.last_at < REPEAT_AFTER:
            return None
        if not self._spend(news.deployment.uid, now):
            metrics.EVENTS_POSTED.labels("dropped").inc()
            return None
        wall = clock.wall()
        latest = _Said(said.first_at if said else wall, now, (said.count if said else 0) + 1, news.message)
        _remember(self._said, identity, latest)
        return self._render(news, latest, wall)

    def _spend(self, uid: str, now: float) -> bool:
        """Whether an LLMDeployment may have one more Event."""
        allowance = self._allowances.get(uid, _Allowance(float(BURST), now))
        left = min(float(BURST), allowance.left + (now - allowance.at) / REFILL_SECONDS)
        is_allowed = left >= 1
        _remember(self._allowances, uid, _Allowance(left - 1 if is_allowed else left, now))
        return is_allowed

    def _render(self, news: _News, said: _Said, wall: float) -> Manifest:
        key = news.deployment.key
        digest = sha256(f"{news.deployment.uid}/{news.reason}/{self._reporter}".encode()).hexdigest()[:16]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": key.namespace, "name": f"{key.name}.{digest}"},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "namespace": key.namespace,
                "name": key.name,
                "uid": news.deployment.uid,
            },
            "type": "Warning" if news.warning else "Normal",
            "reason": news.reason.value,
            "message": news.message,
            "source": {"component": "lull-operator"},
            "reportingComponent": "lull.dev/operator",
            "reportingInstance": self._reporter,
            "firstTimestamp": _seconds(said.first_at),
            "lastTimestamp": _seconds(wall),
            "count": said.count,
        }


def _remember(known: OrderedDict[K, V], key: K, value: V) -> None:
    """Keep the latest, and forget those that were not heard of for the longest."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > _REMEMBERED:
        known.popitem(last=False)


def _seconds(at: float) -> str:
    """RFC 3339 without a fraction: Kubernetes' Time, which Events' old timestamps are."""
    return clock.render_time(float(int(at))).replace(".000000", "")
