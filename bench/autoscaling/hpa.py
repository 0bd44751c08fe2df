"""Kubernetes' HorizontalPodAutoscaler, and what others build on it: KEDA, and llm-d's SLO-aware loop.

The rules are those of `pkg/controller/podautoscaler` in Kubernetes v1.34; `reference/hpa` asks that code itself.
Metrics are integers in thousandths, as there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lull.core.simulation.fleet import View

SYNC: Final = 15.0
"""--horizontal-pod-autoscaler-sync-period, in seconds."""
TOLERANCE: Final = 0.1
STABILIZATION: Final = 300.0
"""--horizontal-pod-autoscaler-downscale-stabilization, in seconds."""
MILLI: Final = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of `policies`: how far the count may move within a period."""

    value: int
    period: float
    is_percent: bool = False


@dataclass(frozen=True, slots=True)
class Behavior:
    """`spec.behavior`, with selectPolicy Max."""

    up: tuple[Step, ...] = (Step(4, 15), Step(100, 15, is_percent=True))
    up_window: float = 0.0
    down: tuple[Step, ...] = (Step(100, 15, is_percent=True),)
    down_window: float = STABILIZATION


@dataclass(slots=True)
class Controller:
    """What the controller knows of one HorizontalPodAutoscaler."""

    least: int
    most: int
    behavior: Behavior | None = None
    _recommendations: deque[tuple[float, int]] = field(default_factory=deque)
    _ups: list[tuple[float, int]] = field(default_factory=list)
    _downs: list[tuple[float, int]] = field(default_factory=list)
    _has_begun: bool = False

    def sync(self, now: float, replicas: int, proposals: Sequence[int | None]) -> int:
        """Replicas to have after one sync; a metric that could not be had proposes None."""
        if not self._has_begun:
            self._has_begun = True
            self._recommendations.append((now, replicas))
        if replicas == 0:
            return 0
        if not self.least <= replicas <= self.most:
            chosen = min(max(replicas, self.least), self.most)
        else:
            known = [proposal for proposal in proposals if proposal is not None]
            if not known or (len(known) < len(proposals) and max(known) < replicas):
                return replicas
            chosen = self._normalize(now, replicas, max(known))
        if chosen != replicas:
            self._note(now, chosen - replicas)
        return chosen

    def _normalize(self, now: float, replicas: int, proposed: int) -> int:
        behavior, recommendations = self.behavior, self._recommendations
        memory = STABILIZATION if behavior is None else max(behavior.up_window, behavior.down_window)
        while recommendations and recommendations[0][0] < now - memory:
            recommendations.popleft()
        known = tuple(recommendations)
        recommendations.append((now, proposed))
        if behavior is None:
            stable = max((count for _, count in known), default=proposed)
            return min(max(proposed, stable, self.least), self.most, max(2 * replicas, 4))
        low = min((count for at, count in known if at > now - behavior.up_window), default=proposed)
        high = max((count for at, count in known if at > now - behavior.down_window), default=proposed)
        stable = min(max(replicas, min(low, proposed)), max(high, proposed))
        return self._pace(behavior, now, replicas, stable)

    def _pace(self, behavior: Behavior, now: float, replicas: int, stable: int) -> int:
        if stable > replicas:
            limit = max(_rise(step, self._find_start(step, replicas, now)) for step in behavior.up)
            return min(stable, self.most, max(limit, replicas))
        if stable < replicas:
            limit = min(_fall(step, self._find_start(step, replicas, now)) for step in behavior.down)
            return max(stable, self.least, min(limit, replicas))
        return stable

    def _find_start(self, step: Step, replicas: int, now: float) -> int:
        """Replicas at the beginning of the period."""
        since = now - step.period
        added = sum(count for at, count in self._ups if at > since)
        return replicas - added + sum(count for at, count in self._downs if at > since)

    def _note(self, now: float, change: int) -> None:
        if self.behavior is None:
            return
        events, steps = (self._ups, self.behavior.up) if change > 0 else (self._downs, self.behavior.down)
        since = now - max(step.period for step in steps)
        # As there: an old event stays, and may count for the other direction, until another takes its place.
        place = max((number for number, (at, _) in enumerate(events) if at < since), default=len(events))
        events[place : place + 1] = [(now, abs(change))]


def propose_for_pods(replicas: int, values: Sequence[int], target: int) -> int | None:
    """Of a Pods metric, which pods that are not ready do not have; None where nobody has it."""
    if not values:
        return None
    ratio = sum(values) // len(values) / target
    if len(values) == replicas:
        return replicas if _is_near(ratio) else ceil(ratio * replicas)
    # Whoever does not say counts as idle on the way up, and as on target on the way down.
    missing = (replicas - len(values)) * (target if ratio < 1 else 0)
    count = len(values) if ratio == 1 else replicas
    balanced = (sum(values) + missing) // count / target
    if _is_near(balanced) or (ratio < 1 < balanced) or (balanced < 1 < ratio):
        return replicas
    proposed = ceil(balanced * count)
    turned = proposed > replicas if balanced < 1 else proposed < replicas
    return replicas if turned else proposed


def propose_for_total(replicas: int, total: int, target: int) -> int:
    """Of an External metric with an average value, as KEDA's are."""
    return replicas if _is_near(total / (target * replicas)) else ceil(total / target)


@dataclass(slots=True)
class Hpa:
    """On requests that wait, as a Pods metric: the usual first setting for vLLM. It cannot go to zero."""

    target: float = 5.0
    least: int = 1
    most: int = 8
    tick: float = SYNC
    wakes: bool = False
    _controller: Controller = field(init=False)

    def __post_init__(self) -> None:
        self._controller = Controller(max(1, self.least), self.most)

    def scale(self, view: View) -> int:
        waiting = (view.held + view.waiting) * MILLI
        values = [waiting // view.ready] * view.ready if view.ready else []
        proposal = propose_for_pods(view.asked, values, round(self.target * MILLI))
        # Kubernetes leaves alone what has no replicas; whoever sets it up begins with minReplicas.
        return self._controller.sync(view.now, view.asked, (proposal,)) if view.asked else self._controller.least


@dataclass(slots=True)
class Keda:
    """KEDA's defaults, on requests that wait and requests that run, as llm-d's guide has it; 0 to 1 and back by itself."""

    target: float = 16.0
    """Running requests per replica."""
    queue_target: float = 5.0
    least: int = 0
    most: int = 8
    behavior: Behavior | None = None
    poll: float = 30.0
    cooldown: float = 300.0
    tick: float = SYNC
    wakes: bool = False
    _controller: Controller = field(init=False)
    _poll_at: float = 0.0
    _active_at: float = 0.0

    def __post_init__(self) -> None:
        self._controller = Controller(max(1, self.least), self.most, self.behavior)

    def scale(self, view: View) -> int:
        waiting, asked = view.held + view.waiting, view.asked
        if view.now >= self._poll_at:
            self._poll_at = view.now + self.poll
            if waiting or view.running:
                self._active_at = view.now
                asked = asked or max(1, self.least)
            elif self.least == 0 and view.now - self._active_at > self.cooldown:
                asked = 0
        if not asked or asked != view.asked:
            return asked
        return self._controller.sync(
            view.now,
            asked,
            (
                propose_for_total(asked, waiting * MILLI, round(self.queue_target * MILLI)),
                propose_for_total(asked, view.running * MILLI, round(self.target * MILLI)),
            ),
        )


@dataclass(slots=True)
class SloLoop:
    """llm-d's SLO-aware loop: latency over its limit, smoothed, made into replicas by KEDA, paced by the HPA."""

    ttft: float
    tpot: float
    least: int = 3
    most: int = 8
    up: float = 0.55
    down: float = 0.40
    tick: float = SYNC
    wakes: bool = False
    _signals: deque[tuple[float, float]] = field(default_factory=deque)
    _controller: Controller = field(init=False)

    def __post_init__(self) -> None:
        behavior = Behavior(
            up=(Step(100, 60, is_percent=True), Step(4, 60)), up_window=30, down=(Step(1, 120),), down_window=180
        )
        self._controller = Controller(max(1, self.least), self.most, behavior)

    def scale(self, view: View) -> int:
        if not view.asked:
            return self._controller.least
        raw = max((view.ttft_p90 or 0.0) / self.ttft, (view.tpot_p90 or 0.0) / self.tpot)
        self._signals.append((view.now, min(raw, 2.0)))
        while self._signals[0][0] <= view.now - 45:
            self._signals.popleft()
        wanted = self._want(sum(signal for _, signal in self._signals) / len(self._signals), view)
        proposal = propose_for_total(view.asked, wanted * MILLI, MILLI)
        return self._controller.sync(view.now, view.asked, (proposal,))

    def _want(self, signal: float, view: View) -> int:
        count = view.asked
        if signal > self.up:
            credit = view.ready / count if 0 < view.ready < count else 1.0
            return count + ceil(count * (signal * credit / self.up - 1))
        if signal < self.down:
            return count - floor(count * (1 - signal / self.down))
        return count


def _is_near(ratio: float) -> bool:
    return 1.0 - TOLERANCE <= ratio <= 1.0 + TOLERANCE


def _rise(step: Step, start: int) -> int:
    return ceil(start * (1 + step.value / 100)) if step.is_percent else start + step.value


def _fall(step: Step, start: int) -> int:
    return int(start * (1 - step.value / 100)) if step.is_percent else start - step.value
