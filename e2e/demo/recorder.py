"""What happened, and when: replicas, held and in flight over time, and the stages of each pod's start."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from e2e.lab import conditions, is_ready
from lull.api import names
from lull.doors.kube import LLMDEPLOYMENTS, PODS, WatchEvent, reflect

if TYPE_CHECKING:
    from e2e.lab import Lab
    from lull.api.llmdeployment import Manifest

EVERY: Final = 0.25
"""Seconds between samples."""

STAGES: Final = ("created", "scheduled", "image", "weights", "engine", "ready")
"""Stages of a pod's start in order; each is stamped when it is first seen to be over."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One model at one moment; `at` is in seconds since the epoch."""

    at: float
    replicas: int
    ready: int
    held: int
    in_flight: int


@dataclass(slots=True)
class Recorder:
    """Watches one lab's namespace for as long as `run` runs."""

    lab: Lab
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Pod name → stage → when it was first seen to be over."""
    deployments: dict[str, Manifest] = field(default_factory=dict)
    pods: dict[str, Manifest] = field(default_factory=dict)

    async def run(self) -> None:
        """Watch and sample until cancelled."""
        kube, namespace = self.lab.kube, self.lab.namespace
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                reflect(kube, PODS, self._saw_pod, namespace=namespace, labels=f"{names.LABEL_COMPONENT}=engine")
            )
            tasks.create_task(reflect(kube, LLMDEPLOYMENTS, self._saw_deployment, namespace=namespace))
            tasks.create_task(self._sample())

    def replicas(self, name: str) -> tuple[int, int]:
        """Existing and ready replicas of a model right now."""
        pods = [pod for pod in self.pods.values() if pod["metadata"]["labels"][names.LABEL_DEPLOYMENT] == name]
        return sum("deletionTimestamp" not in pod["metadata"] for pod in pods), sum(map(is_ready, pods))

    def last(self, name: str) -> Sample:
        """The newest sample of a model."""
        return self.samples.get(name, [Sample(time.time(), 0, 0, 0, 0)])[-1]

    def decision(self, name: str) -> Manifest | None:
        """The newest scaling decision of a model, as its status tells it."""
        decisions = self.deployments.get(name, {}).get("status", {}).get("decisions", [])
        return decisions[0] if decisions else None

    async def _sample(self) -> None:
        while True:
            demand = await self.lab.demand()
            now = time.time()
            for name in self.deployments:
                counts = demand.get(f"{self.lab.namespace}/{name}", {"held": 0, "inFlight": 0})
                existing, ready = self.replicas(name)
                self.samples.setdefault(name, []).append(
                    Sample(now, existing, ready, counts["held"], counts["inFlight"])
                )
            await asyncio.sleep(EVERY)

    def _saw_deployment(self, event: WatchEvent) -> None:
        name = event.object["metadata"]["name"]
        if event.type == "DELETED":
            self.deployments.pop(name, None)
        else:
            self.deployments[name] = event.object

    def _saw_pod(self, event: WatchEvent) -> None:
        name = event.object["metadata"]["name"]
        if event.type == "DELETED":
            self.pods.pop(name, None)
            return
        self.pods[name] = event.object
        seen = self.stages.setdefault(name, {})
        for stage in _stages_over(event.object):
            seen.setdefault(stage, time.time())


def _stages_over(pod: Manifest) -> list[str]:
    status = pod.get("status", {})
    fetchers = status.get("initContainerStatuses", [])
    engines = status.get("containerStatuses", [])
    engine_runs = any("running" in container["state"] for container in engines)
    over = {
        "created": True,
        "scheduled": conditions(pod).get("PodScheduled", {}).get("status") == "True",
        "image": engine_runs or any(container["state"].keys() & {"running", "terminated"} for container in fetchers),
        "weights": engine_runs or bool(fetchers and all("terminated" in container["state"] for container in fetchers)),
        "engine": engine_runs,
        "ready": is_ready(pod),
    }
    return [stage for stage in STAGES if over[stage]]
