"""What the API server last said of everything that the operator reads, kept in memory by one watch for each kind.

It may be a moment behind, but never behind what we wrote ourselves: the answer to each of our writes is learned at
once, and events from before it are passed over. Each list that follows a watch puts right what the watch kept to
itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, Key, parse_llmdeployment
from lull.core.observed import is_owned
from lull.doors import clock
from lull.doors.kube import (
    DEPLOYMENTS,
    LEADER_WORKER_SETS,
    LLMDEPLOYMENTS,
    NETWORK_POLICIES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    POD_DISRUPTION_BUDGETS,
    POD_MONITORS,
    PODS,
    SERVICES,
    Refused,
    Transient,
    WatchEvent,
    reflect,
)
from lull.doors.trimming import is_alike, trim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.doors.kube import Kube, Resource

log = structlog.get_logger(__name__)

WORKLOADS: Final = (DEPLOYMENTS, LEADER_WORKER_SETS)
OTHERS: Final = (SERVICES, NETWORK_POLICIES, POD_DISRUPTION_BUDGETS, PERSISTENT_VOLUME_CLAIMS, POD_MONITORS)

_REQUIRED: Final = (LLMDEPLOYMENTS, DEPLOYMENTS, PODS, SERVICES, NETWORK_POLICIES, POD_DISRUPTION_BUDGETS)
_OPTIONAL: Final = (PERSISTENT_VOLUME_CLAIMS, LEADER_WORKER_SETS, POD_MONITORS, NODES)
"""Kinds that a cluster may lack, or that we may not be allowed to read: Lull does without them."""
_LOOK_AGAIN_SECONDS: Final = 60.0
"""How often to look whether an optional kind has come."""
_RELIST_SECONDS: Final = 280.0
"""A little less than a watch lives, so that each is followed by a list."""
_EXPECT_SECONDS: Final = 10.0
"""How long a watch may take to show what we wrote, before what it shows counts in any case."""

_Name = tuple[str, str, str]
"""Kind, namespace and name."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """An answer to a write of ours that the watch has not shown yet."""

    version: str
    at: float


class Store:
    """The last known state; listeners are told the key of each LLMDeployment that something changed for."""

    def __init__(self) -> None:
        self._manifests: dict[Key, Manifest] = {}
        self._deployments: dict[Key, LLMDeployment] = {}
        self._children: dict[tuple[str, Key], dict[str, Manifest]] = {}
        self._owners: dict[_Name, Key] = {}
        self._nodes: dict[str, Manifest] = {}
        self._expected: dict[_Name, _Expected] = {}
        self._served = {resource.kind for resource in _REQUIRED}
        self._unsynced = {resource.kind for resource in (*_REQUIRED, *_OPTIONAL)}
        self._synced = asyncio.Event()
        self._listeners: list[Callable[[Key], None]] = []

    def listen(self, on_change: Callable[[Key], None]) -> None:
        self._listeners.append(on_change)

    async def wait_synced(self) -> None:
        """Wait until everything was listed once."""
        await self._synced.wait()

    def serves(self, kind: str) -> bool:
        """Whether the cluster has a kind and we may read it; asked again every minute for those that it may lack."""
        return kind in self._served

    def find_manifest(self, key: Key) -> Manifest | None:
        """The LLMDeployment as it is, whether or not it can be read."""
        return self._manifests.get(key)

    def find_deployment(self, key: Key) -> LLMDeployment | None:
        """The LLMDeployment, where it exists and can be read."""
        return self._deployments.get(key)

    def list_deployments(self) -> Iterable[LLMDeployment]:
        return self._deployments.values()

    def list_workloads(self, deployment: LLMDeployment) -> tuple[Manifest, ...]:
        """Deployments and LeaderWorkerSets that this very LLMDeployment owns."""
        return tuple(self._list_owned(WORKLOADS, deployment))

    def list_others(self, deployment: LLMDeployment) -> tuple[Manifest, ...]:
        """Children that run nothing, of this very LLMDeployment."""
        return tuple(self._list_owned(OTHERS, deployment))

    def list_pods(self, key: Key) -> tuple[Manifest, ...]:
        """Every pod that bears the LLMDeployment's label: of a group its leader and its workers."""
        return tuple(self._children.get((PODS.kind, key), {}).values())

    def list_nodes(self) -> tuple[Manifest, ...]:
        """Every node: name, labels, taints, unschedulable, capacity, allocatable and its Ready condition.

        None where we see one namespace only, or may not list nodes: `serves("Node")` tells.
        """
        return tuple(self._nodes.values())

    def learn(self, written: Manifest) -> None:
        """Take the API server's answer to a write of ours, so that nobody decides from before it.

        Listeners hear of a child. Of an LLMDeployment's status they do not: whoever wrote it knows.
        """
        metadata = written["metadata"]
        name = _name(written)
        known = self._find(name)
        if known is not None and not _is_before(_version(known), metadata["resourceVersion"]):
            return
        event = WatchEvent("MODIFIED", trim(written))
        if written["kind"] == LLMDEPLOYMENTS.kind:
            self._put_deployment(event)
        else:
            self._put_child(event)
        self._expected[name] = _Expected(metadata["resourceVersion"], clock.monotonic())

    async def run(self, kube: Kube, *, namespace: str | None, on_alive: Callable[[str], None]) -> None:
        """Watch for ever."""
        if namespace is not None:
            self._check_off(NODES)
        async with asyncio.TaskGroup() as group:
            for resource in _REQUIRED:
                group.create_task(self._follow(kube, resource, namespace=namespace, on_alive=on_alive))
            for resource in _OPTIONAL:
                if namespace is None or resource is not NODES:
                    group.create_task(self._follow_optional(kube, resource, namespace=namespace, on_alive=on_alive))

    async def _follow_optional(
        self, kube: Kube, resource: Resource, *, namespace: str | None, on_alive: Callable[[str], None]
    ) -> None:
        """Follow a kind while it is there, and look now and then whether it has come."""
        while True:
            on_alive(f"watch of {resource.plural}")
            with contextlib.suppress(Transient):
                if await _is_served(kube, resource):
                    await self._follow(kube, resource, namespace=namespace, on_alive=on_alive, is_optional=True)
                    self._lose(resource)
                self._check_off(resource)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS if resource.kind not in self._unsynced else 1.0)

    async def _follow(
        self,
        kube: Kube,
        resource: Resource,
        *,
        namespace: str | None,
        on_alive: Callable[[str], None],
        is_optional: bool = False,
    ) -> None:
        def on_synced() -> None:
            if resource.kind not in self._served:
                self._served.add(resource.kind)
                log.info("kind is served", kind=resource.kind)
                self._tell_all()
            self._check_off(resource)
            self._drop_unseen(resource)

        await reflect(
            kube,
            resource,
            self._take,
            namespace=namespace,
            labels="" if resource in {LLMDEPLOYMENTS, NODES} else names.LABEL_DEPLOYMENT,
            trim=trim,
            relist_seconds=_RELIST_SECONDS,
            is_optional=is_optional,
            on_synced=on_synced,
            on_alive=lambda: on_alive(f"watch of {resource.plural}"),
        )

    def _check_off(self, resource: Resource) -> None:
        self._unsynced.discard(resource.kind)
        if not self._unsynced:
            self._synced.set()

    def _drop_unseen(self, resource: Resource) -> None:
        """Forget what we wrote and the API server, asked some time later, did not list."""
        now = clock.monotonic()
        for name, expected in tuple(self._expected.items()):
            if name[0] == resource.kind and now - expected.at > _EXPECT_SECONDS:
                unseen = self._find(name)
                if unseen is not None:
                    self._take(WatchEvent("DELETED", unseen))

    def _lose(self, resource: Resource) -> None:
        """A kind is no longer there, and with it all its objects."""
        if resource.kind not in self._served:
            if resource.kind in self._unsynced:
                log.warning("kind may not be read", kind=resource.kind)
            return
        self._served.discard(resource.kind)
        log.warning("kind is no longer served", kind=resource.kind)
        for name in [name for name in self._owners if name[0] == resource.kind]:
            self._children.pop((resource.kind, self._owners.pop(name)), None)
            self._expected.pop(name, None)
        if resource is NODES:
            self._nodes.clear()
        self._tell_all()

    def _take(self, event: WatchEvent) -> None:
        """Know one change, unless it is one from before a write of ours, and tell whom it concerns."""
        if self._is_outdated(event):
            return
        match event.object["kind"]:
            case NODES.kind:
                self._put_node(event)
            case LLMDEPLOYMENTS.kind:
                if self._put_deployment(event):
                    self._tell(_key(event.object))
            case _:
                self._put_child(event)

    def _is_outdated(self, event: WatchEvent) -> bool:
        """Whether a write of ours came after what an event tells, which may even be of a namesake before."""
        name = _name(event.object)
        expected = self._expected.get(name)
        if expected is None:
            return False
        is_late = clock.monotonic() - expected.at > _EXPECT_SECONDS
        if not is_late and _is_before(_version(event.object), expected.version):
            return True
        del self._expected[name]
        return False

    def _put_node(self, event: WatchEvent) -> None:
        name = event.object["metadata"]["name"]
        if event.type == "DELETED":
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = event.object

    def _put_deployment(self, event: WatchEvent) -> bool:
        """Know an LLMDeployment; whether anything of it changed."""
        key = _key(event.object)
        known = self._manifests.pop(key, None)
        if event.type == "DELETED":
            self._deployments.pop(key, None)
            return known is not None
        self._manifests[key] = event.object
        if known is not None and is_alike(known, event.object):
            return False
        self._deployments.pop(key, None)
        # Of one that cannot be read the reconcile says so in status; until then nothing is decided for it.
        with contextlib.suppress(InvalidSpec):
            self._deployments[key] = parse_llmdeployment(event.object)
        return True

    def _put_child(self, event: WatchEvent) -> None:
        name = _name(event.object)
        known, before = self._find(name), self._owners.pop(name, None)
        if before is not None:
            family = self._children[name[0], before]
            del family[name[2]]
            if not family:
                del self._children[name[0], before]
        owner = None
        if event.type != "DELETED":
            owner = Key(name[1], event.object["metadata"]["labels"][names.LABEL_DEPLOYMENT])
            self._owners[name] = owner
            self._children.setdefault((name[0], owner), {})[name[2]] = event.object
        if owner != before or known is None or not is_alike(known, event.object):
            for key in {before, owner}:
                if key is not None:
                    self._tell(key)

    def _list_owned(self, resources: Iterable[Resource], deployment: LLMDeployment) -> Iterator[Manifest]:
        for resource in resources:
            for child in self._children.get((resource.kind, deployment.key), {}).values():
                if is_owned(child, deployment):
                    yield child

    def _find(self, name: _Name) -> Manifest | None:
        kind, namespace, short = name
        if kind == LLMDEPLOYMENTS.kind:
            return self._manifests.get(Key(namespace, short))
        owner = self._owners.get(name)
        return None if owner is None else self._children[kind, owner][short]

    def _tell(self, key: Key) -> None:
        for listener in self._listeners:
            listener(key)

    def _tell_all(self) -> None:
        for key in tuple(self._manifests):
            self._tell(key)


async def _is_served(kube: Kube, resource: Resource) -> bool:
    try:
        return await kube.serves(resource)
    except Refused:
        return False


def _name(manifest: Manifest) -> _Name:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def _key(manifest: Manifest) -> Key:
    metadata = manifest["metadata"]
    return Key(metadata["namespace"], metadata["name"])


def _version(manifest: Manifest) -> str:
    version: str = manifest["metadata"]["resourceVersion"]
    return version


def _is_before(version: str, other: str) -> bool:
    """Whether one resource version of a kind is older than another: they are numbers that count up."""
    return version.isdecimal() and other.isdecimal() and int(version) < int(other)
