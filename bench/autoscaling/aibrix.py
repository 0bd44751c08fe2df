"""AIBrix's APA, by `pkg/controller/podautoscaler` of AIBrix: average use of the KV cache against a target."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lull.core.simulation.fleet import View

WINDOW: Final = 180.0
COOLDOWN: Final = 300.0
"""Seconds in which the highest recommendation holds."""
TOLERANCE: Final = 0.1
RATE: Final = 2.0


@dataclass(slots=True)
class Apa:
    """On the average of ready engines' KV cache use over three minutes; it does not go to zero by default."""

    target: float = 0.5
    least: int = 1
    most: int = 8
    tick: float = 10.0
    wakes: bool = False
    _use: deque[tuple[float, float]] = field(default_factory=deque)
    _recommendations: deque[tuple[float, int]] = field(default_factory=deque)

    def scale(self, view: View) -> int:
        least = max(1, self.least)
        if not view.asked:
            return least
        if view.kv_usage:
            self._use.append((view.now, sum(view.kv_usage) / len(view.kv_usage)))
        while self._use and self._use[0][0] <= view.now - WINDOW:
            self._use.popleft()
        if not self._use:
            return view.asked
        use = sum(value for _, value in self._use) / len(self._use)
        wanted = decide(self.target, use, view.asked, view.ready)
        wanted = min(max(wanted, least), self.most)
        recommendations = self._recommendations
        if not recommendations:
            # What is there at first counts as recommended, as in Kubernetes.
            recommendations.append((view.now, view.asked))
        while recommendations and recommendations[0][0] <= view.now - COOLDOWN:
            recommendations.popleft()
        recommendations.append((view.now, wanted))
        if wanted >= view.asked:
            return wanted
        return min(view.asked, max(count for _, count in recommendations))


def decide(target: float, use: float, replicas: int, ready: int) -> int:
    """`computeTargetReplicas`, and the guard for replicas that are not ready."""
    ratio = use / target
    wanted = ceil(replicas * ratio)
    if ratio > 1 + TOLERANCE:
        wanted = min(wanted, ceil(RATE * replicas))
    elif ratio < 1 - TOLERANCE:
        wanted = max(wanted, floor(replicas / RATE))
    else:
        return replicas
    pending = replicas - min(ready, replicas)
    if not pending or wanted == replicas:
        return wanted
    if wanted > replicas:
        return min(max(ceil(use * ready / target), replicas), wanted)
    return max(min(ceil((use * ready + target * pending) / target), replicas), wanted)
