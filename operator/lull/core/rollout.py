"""How pods of one pool are replaced: as the spec says, or in place where there is no room for one more.

A surge replica needs accelerators of its own. Where none are free it would wait for ever, and the rollout with it: then
one replica after the other gives up its accelerators for its successor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.spec import WhenFull
from lull.api.timestamps import parse_timestamp
from lull.core.manifests import find_revision
from lull.core.manifests.vendors import find_resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.core.observed import Observed

PATIENCE: Final = 15.0
"""Seconds that a surge replica may look for accelerators: those of a pod that has just ended are free a moment later."""

_OF_CPU: Final = ("cpu", "memory")
"""What a replica without accelerators computes on."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """Most replicas over and under what is asked for while pods are replaced: numbers or percentages."""

    max_surge: int | str
    max_unavailable: int | str


IN_PLACE: Final = Strategy(max_surge=0, max_unavailable=1)


def choose_strategies(deployment: LLMDeployment, observed: Observed, *, now: float) -> Mapping[str, Strategy]:
    """The strategy for each workload that is there, by its name."""
    return {
        workload["metadata"]["name"]: choose_strategy(deployment, workload, observed.members, now=now)
        for workload in observed.workloads
    }


def choose_strategy(
    deployment: LLMDeployment, workload: Manifest, pods: tuple[Manifest, ...], *, now: float
) -> Strategy:
    """In place once a successor finds no accelerators, and then until the rollout is done; else as the spec says."""
    rollout = deployment.spec.rollout
    wanted = Strategy(rollout.max_surge, rollout.max_unavailable)
    if rollout.when_full is WhenFull.WAIT or rollout.max_surge in {0, "0%"}:
        return wanted
    earlier, successors = _part_pods(deployment, workload, pods)
    if not earlier:
        return wanted
    if read_strategy(workload) == IN_PLACE:
        # The free accelerators that there are now came from a replica that ended; surging again would take turns.
        return IN_PLACE
    lacking = [_lacks_room_since(pod, deployment) for pod in successors]
    return IN_PLACE if any(since is not None and now - since >= PATIENCE for since in lacking) else wanted


def find_next_look(deployment: LLMDeployment, observed: Observed, *, now: float) -> float | None:
    """Seconds until a strategy may change with nothing but time; None where it does not."""
    waits = [
        since + PATIENCE - now
        for pod in observed.members
        if (since := _lacks_room_since(pod, deployment)) is not None and now - since < PATIENCE
    ]
    return min(waits, default=None)


def read_strategy(workload: Manifest) -> Strategy | None:
    """The strategy that a workload has, where it is a rolling one."""
    spec = workload["spec"]
    rolling = (spec.get("strategy") or {}).get("rollingUpdate") or (spec.get("rolloutStrategy") or {}).get(
        "rollingUpdateConfiguration"
    )
    if not rolling:
        return None
    return Strategy(rolling.get("maxSurge", 0), rolling.get("maxUnavailable", 0))


def apply_strategy(workload: Manifest, strategy: Strategy) -> Manifest:
    """The workload with another strategy."""
    spec = workload["spec"]
    rolling = {"maxSurge": strategy.max_surge, "maxUnavailable": strategy.max_unavailable}
    if workload["kind"] == "Deployment":
        return {**workload, "spec": {**spec, "strategy": {**spec["strategy"], "rollingUpdate": rolling}}}
    rollout = spec["rolloutStrategy"]
    configuration = {**rollout["rollingUpdateConfiguration"], **rolling}
    return {
        **workload,
        "spec": {**spec, "rolloutStrategy": {**rollout, "rollingUpdateConfiguration": configuration}},
    }


def _part_pods(
    deployment: LLMDeployment, workload: Manifest, pods: tuple[Manifest, ...]
) -> tuple[list[Manifest], list[Manifest]]:
    """A pool's pods of other revisions, also those that are going, and those of the one that the spec asks for."""
    name = (workload["metadata"].get("labels") or {}).get(names.LABEL_POOL)
    pool = next((pool for pool in deployment.spec.placement.pools if pool.name == name), None)
    if pool is None:
        return [], []
    revision = find_revision(deployment, pool)
    labels = [(pod, pod["metadata"].get("labels") or {}) for pod in pods]
    ours = [(pod, label) for pod, label in labels if label.get(names.LABEL_POOL) == name]
    return (
        [pod for pod, label in ours if label.get(names.LABEL_REVISION) != revision],
        [pod for pod, label in ours if label.get(names.LABEL_REVISION) == revision],
    )


def _lacks_room_since(pod: Manifest, deployment: LLMDeployment) -> float | None:
    """Since when the scheduler finds no node with accelerators for a pod; None where it does, or they are not lacking."""
    if "deletionTimestamp" in pod["metadata"]:
        return None
    resource = find_resource(deployment.spec)
    lacks = tuple(f"Insufficient {name}" for name in ((resource,) if resource is not None else _OF_CPU))
    for condition in (pod.get("status") or {}).get("conditions") or ():
        is_unschedulable = condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable"
        began, message = condition.get("lastTransitionTime"), condition.get("message", "")
        if is_unschedulable and began and any(lack in message for lack in lacks):
            return parse_timestamp(began)
    return None
