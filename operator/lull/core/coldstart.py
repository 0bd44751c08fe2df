"""The measured start of a first replica, by stage, from the timestamps of its pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lull.api.quantities import render_duration
from lull.api.status import ColdStart
from lull.api.timestamps import parse_timestamp
from lull.core.manifests.pods import CONTAINER_ENGINE, CONTAINER_FETCH
from lull.core.replicas import condition_time, exists

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest
    from lull.api.status import LLMDeploymentStatus
    from lull.core.observed import Observed


def measure_cold_start(previous: LLMDeploymentStatus, observed: Observed) -> ColdStart | None:
    """The start of the first replica after none was ready, once it is; else what was measured before."""
    if previous.cold_start is not None and previous.ready_replicas > 0:
        return previous.cold_start
    starts = [start for pod in observed.pods if exists(pod) and (start := _measure(pod)) is not None]
    newest = min(starts, key=lambda start: start[0], default=None)
    # A pod that was unready for a moment comes back with a later Ready time: its start was measured already.
    if newest is None or (previous.cold_start is not None and newest[1].at <= previous.cold_start.at):
        return previous.cold_start
    return newest[1]


def _measure(pod: Manifest) -> tuple[float, ColdStart] | None:
    """When a pod became ready and its stages, or None where its timestamps do not tell the first start."""
    created_at = pod["metadata"].get("creationTimestamp")
    scheduled, ready = condition_time(pod, "PodScheduled"), condition_time(pod, "Ready")
    status = pod.get("status") or {}
    engine = _container(status.get("containerStatuses"), CONTAINER_ENGINE)
    running = (engine.get("state") or {}).get("running") or {}
    if not created_at or scheduled is None or ready is None or not running or engine.get("restartCount", 0):
        return None
    created, started = parse_timestamp(created_at), parse_timestamp(running["startedAt"])
    fetched = (_container(status.get("initContainerStatuses"), CONTAINER_FETCH).get("state") or {}).get("terminated")
    weights = parse_timestamp(fetched["finishedAt"]) - parse_timestamp(fetched["startedAt"]) if fetched else 0.0
    return ready, ColdStart(
        at=created_at,
        scheduled=render_duration(scheduled - created),
        # The engine's image may also be pulled after the fetcher has ended; both waits are the image's.
        image=render_duration(started - scheduled - weights),
        weights=render_duration(weights),
        warm_up=render_duration(ready - started),
        total=render_duration(ready - created),
    )


def _container(statuses: list[Manifest] | None, name: str) -> Manifest:
    return next((status for status in statuses or () if status["name"] == name), {})
