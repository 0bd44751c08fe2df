"""What the API server last said of LLMDeployments, their workloads and their pods, kept in memory by watches.

For whoever must answer at once, or needs all LLMDeployments together. It may be a moment behind; a reconcile, which
must not be, reads the API server instead.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, Key, parse_llmdeployment
from lull.core.observed import is_owned
from lull.doors.kube import DEPLOYMENTS, LLMDEPLOYMENTS, PODS, reflect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.doors.kube import Kube, Resource, WatchEvent

_SELECTORS: Final[tuple[tuple[Resource, str], ...]] = (
    (LLMDEPLOYMENTS, ""),
    (DEPLOYMENTS, names.LABEL_DEPLOYMENT),
    (PODS, f"{names.LABEL_COMPONENT}={names.COMPONENT_ENGINE},{names.LABEL_DEPLOYMENT}"),
)


class Store:
    """The last known state; `on_change` is told the key of each LLMDeployment that something changed for."""

    def __init__(self) -> None:
        self._deployments: dict[Key, LLMDeployment] = {}
        self._children: dict[tuple[str, Key], dict[str, Manifest]] = {}
        self._listeners: list[Callable[[Key], None]] = []
        self._unsynced = {resource.kind for resource, _ in _SELECTORS}
        self._synced = asyncio.Event()

    def listen(self, on_change: Callable[[Key], None]) -> None:
        self._listeners.append(on_change)

    async def wait_synced(self) -> None:
        """Wait until everything was listed once."""
        await self._synced.wait()

    def find_deployment(self, key: Key) -> LLMDeployment | None:
        """The LLMDeployment, where it exists and can be read."""
        return self._deployments.get(key)

    def list_deployments(self) -> Iterable[LLMDeployment]:
        return self._deployments.values()

    def list_workloads(self, deployment: LLMDeployment) -> tuple[Manifest, ...]:
        """apps/v1 Deployments that this very LLMDeployment owns."""
        return tuple(
            workload
            for workload in self._children.get((DEPLOYMENTS.kind, deployment.key), {}).values()
            if is_owned(workload, deployment)
        )

    def list_pods(self, key: Key) -> tuple[Manifest, ...]:
        return tuple(self._children.get((PODS.kind, key), {}).values())

    async def run(self, kube: Kube, *, namespace: str | None, on_alive: Callable[[str], None]) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as group:
            for resource, labels in _SELECTORS:
                group.create_task(self._follow(kube, resource, labels, namespace=namespace, on_alive=on_alive))

    async def _follow(
        self, kube: Kube, resource: Resource, labels: str, *, namespace: str | None, on_alive: Callable[[str], None]
    ) -> None:
        def on_synced() -> None:
            self._unsynced.discard(resource.kind)
            if not self._unsynced:
                self._synced.set()

        await reflect(
            kube,
            resource,
            self._take_deployment if resource is LLMDEPLOYMENTS else self._take_child,
            namespace=namespace,
            labels=labels,
            on_synced=on_synced,
            on_alive=lambda: on_alive(f"watch of {resource.plural}"),
        )

    def _take_deployment(self, event: WatchEvent) -> None:
        metadata = event.object["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        self._deployments.pop(key, None)
        if event.type != "DELETED":
            # Of one that cannot be read the reconcile says so in status; until then nothing is decided for it.
            with contextlib.suppress(InvalidSpec):
                self._deployments[key] = parse_llmdeployment(event.object)
        self._tell(key)

    def _take_child(self, event: WatchEvent) -> None:
        metadata = event.object["metadata"]
        key = Key(metadata["namespace"], metadata["labels"][names.LABEL_DEPLOYMENT])
        # A watch's objects carry their kind, a list's are given it by the seam.
        family = self._children.setdefault((event.object["kind"], key), {})
        if event.type == "DELETED":
            family.pop(metadata["name"], None)
            if not family:
                del self._children[event.object["kind"], key]
        else:
            family[metadata["name"]] = event.object
        self._tell(key)

    def _tell(self, key: Key) -> None:
        for listener in self._listeners:
            listener(key)
