"""What the gateway knows of the cluster: the catalogue and the endpoints, as last seen.

While the API server is away this stays as it is, and requests go on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from lull.api.llmdeployment import InvalidSpec, Key, parse_llmdeployment
from lull.core import routing
from lull.core.admission import Limits, build_limits
from lull.core.catalogue import Catalogue, build_catalogue
from lull.core.departures import is_leaving
from lull.core.reading import Share
from lull.core.routing import Candidate, parse_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lull.api.llmdeployment import LLMDeployment
    from lull.core.routing import Endpoint
    from lull.doors.kube import WatchEvent


class Directory:
    """Models by name and endpoints by model."""

    def __init__(
        self,
        *,
        on_change: Callable[[Key], None],
        on_lost: Callable[[str], None],
        on_gone: Callable[[Key], None],
        on_adapter_gone: Callable[[Key, str], None],
    ) -> None:
        """Tell of changed capacity, of a pod (uid) that no longer exists, and of what is no longer served."""
        self._on_change = on_change
        self._on_lost = on_lost
        self._on_gone = on_gone
        self._on_adapter_gone = on_adapter_gone
        self._log = structlog.get_logger("lull.gateway")
        self._deployments: dict[Key, LLMDeployment] = {}
        self._catalogue: Catalogue | None = None
        self._limits: dict[Key, Limits] = {}
        self._candidates: dict[Key, dict[str, Candidate]] = {}
        self._shares: dict[Key, Share] = {}
        self._leaving: set[str] = set()
        """Nodes."""
        self._pending = {"deployments", "pods"}
        self._synced = asyncio.Event()
        self._current = asyncio.Event()

    @property
    def is_synced(self) -> bool:
        return self._synced.is_set()

    @property
    def is_current(self) -> bool:
        """Whether a name that is not in the catalogue is unknown for sure: not while the API server is away."""
        return self._current.is_set()

    async def wait_current(self) -> None:
        await self._synced.wait()
        await self._current.wait()

    def record_synced(self, what: str) -> None:
        """`deployments` or `pods` were listed."""
        self._pending.discard(what)
        if what == "deployments":
            self._current.set()
        if not self._pending:
            self._synced.set()

    def record_lost(self) -> None:
        """The API server cannot be asked for LLMDeployments: new ones would not be seen."""
        self._current.clear()

    @property
    def catalogue(self) -> Catalogue:
        # Built when it is next asked for, so that a list of a thousand objects costs one build and not a thousand.
        if self._catalogue is None:
            self._catalogue = build_catalogue(self._deployments.values())
        return self._catalogue

    def limits(self, deployment: LLMDeployment) -> Limits:
        limits = self._limits.get(deployment.key)
        if limits is None:
            limits = self._limits[deployment.key] = build_limits(deployment)
        return limits

    def candidates(self, key: Key) -> Collection[Candidate]:
        return self._candidates.get(key, {}).values()

    def find_candidate(self, key: Key, uid: str) -> Candidate | None:
        return self._candidates.get(key, {}).get(uid)

    def list_adapters(self, key: Key) -> tuple[str, ...]:
        """Adapters that an LLMDeployment lists."""
        deployment = self._deployments.get(key)
        return deployment.adapter_names if deployment is not None else ()

    def free(self, key: Key, *, now: float, adapter: str = "") -> int:
        """Requests that this model's endpoints, or those that have an adapter, could take right now."""
        deployment = self._deployments.get(key)
        candidates = self._candidates.get(key)
        if deployment is None or not candidates:
            return 0
        return routing.free(candidates.values(), slots=routing.slots(deployment), now=now, adapter=adapter)

    def measure_reading(self, key: Key, *, now: float) -> float | None:
        """Share of the last seconds in which ready endpoints had prompts to read, as far as this gateway can tell."""
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = Share()
        return share.look([(one.reading, one.endpoint.ready) for one in self.candidates(key)], now=now)

    def record_adapters(self, key: Key, uid: str, adapters: Collection[str]) -> None:
        """An engine said which adapters it has."""
        candidate = self.find_candidate(key, uid)
        if candidate is not None and candidate.adapters != adapters:
            candidate.adapters = adapters
            self._on_change(key)

    def record_deployment(self, event: WatchEvent) -> None:
        metadata = event.object["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        if event.type == "DELETED" or "deletionTimestamp" in metadata:
            self.drop_deployment(key)
            return
        try:
            self.put_deployment(parse_llmdeployment(event.object))
        except InvalidSpec as error:
            # What was served so far still is: its pods run, whatever became of the spec.
            self._log.warning("spec not readable", deployment=str(key), error=str(error))

    def put_deployment(self, deployment: LLMDeployment) -> None:
        key = deployment.key
        listed = self.list_adapters(key)
        self._deployments[key] = deployment
        self._catalogue = None
        self._limits.pop(key, None)
        kept = frozenset(deployment.adapter_names)
        for name in listed:
            if name not in kept:
                self._on_adapter_gone(key, name)
        self._on_change(key)

    def drop_deployment(self, key: Key) -> None:
        self._limits.pop(key, None)
        self._shares.pop(key, None)
        if self._deployments.pop(key, None) is not None:
            self._catalogue = None
            self._on_gone(key)

    def record_node(self, event: WatchEvent) -> None:
        """Spare the endpoints of a node that is about to go, or is gone: the deletion of its pods may be late."""
        node = event.object["metadata"]["name"]
        is_marked = event.type == "DELETED" or is_leaving(event.object)
        if is_marked and event.type != "DELETED":
            self._leaving.add(node)
        else:
            self._leaving.discard(node)
        for key, candidates in tuple(self._candidates.items()):
            changed = [
                candidate
                for candidate in candidates.values()
                if candidate.endpoint.node == node and candidate.leaving != is_marked
            ]
            for candidate in changed:
                candidate.leaving = is_marked
            if changed:
                self._on_change(key)

    def record_pod(self, event: WatchEvent) -> None:
        uid = event.object["metadata"]["uid"]
        endpoint = parse_endpoint(event.object)
        if event.type == "DELETED" or endpoint is None:
            self.drop_endpoint(uid)
        else:
            self.put_endpoint(endpoint)

    def put_endpoint(self, endpoint: Endpoint) -> None:
        uid = endpoint.uid
        if self._find_key(uid) not in {None, endpoint.key}:
            self.drop_endpoint(uid)
        candidates = self._candidates.setdefault(endpoint.key, {})
        candidate = candidates.get(uid)
        if candidate is None:
            candidate = candidates[uid] = Candidate(endpoint, leaving=endpoint.node in self._leaving)
        became_ready = endpoint.ready and not candidate.endpoint.ready
        candidate.endpoint = endpoint
        if not endpoint.ready:
            # An engine that comes back has none.
            candidate.adapters = ()
        if became_ready:
            # What failed before is another process by now.
            candidate.failures = 0
            candidate.avoid_until = 0.0
            routing.forget_blocks(candidate)
        self._on_change(endpoint.key)

    def drop_endpoint(self, uid: str) -> None:
        """It no longer exists: what it was asked will not be answered."""
        key = self._find_key(uid)
        if key is None:
            return
        del self._candidates[key][uid]
        if not self._candidates[key]:
            del self._candidates[key]
        self._on_lost(uid)
        self._on_change(key)

    def _find_key(self, uid: str) -> Key | None:
        return next((key for key, candidates in self._candidates.items() if uid in candidates), None)
