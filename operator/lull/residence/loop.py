"""Look at what the replicas of one LLMDeployment have, and take the next step with each: observe → plan → execute.

An engine that restarted has forgotten its adapters, and says so itself: nothing here remembers what was loaded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from lull.api.status import AdapterState
from lull.core.adapters import (
    Fetch,
    Holding,
    assess,
    list_adapters,
    parse_replicas,
    place,
    plan_adapters,
    view_adapter,
)
from lull.core.status import AdapterView
from lull.doors import clock
from lull.residence.engines import execute, observe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from lull.api.llmdeployment import Key, LLMDeployment
    from lull.core.adapters import Adapter, Replica, Setback
    from lull.doors.http import Http
    from lull.doors.store import Store

log = structlog.get_logger(__name__)

MOVES_AT_ONCE: Final = 32
"""Steps with one replica before its state is looked at, and told, again."""
REPLICAS_AT_ONCE: Final = 32

_STEADY_SECONDS: Final = 10.0
_MOVING_SECONDS: Final = 0.05
_FETCHING_SECONDS: Final = 0.5
_STARTING_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Tended:
    """One replica after a look at it."""

    replica: Replica
    holding: Holding
    setbacks: Mapping[str, Setback]
    has_moved: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of one LLMDeployment between two looks."""

    uid: str
    views: Mapping[str, AdapterView] = field(default_factory=dict)
    """By the adapter's id: a new source is not what was said of the old one."""
    setbacks: Mapping[tuple[str, int], Mapping[str, Setback]] = field(default_factory=dict)
    """By adapter, for each process of an engine."""


class Residence:
    """The work of the adapters' queue."""

    def __init__(
        self,
        http: Http,
        *,
        store: Store,
        find_conflicts: Callable[[Key], Mapping[str, str]],
        on_change: Callable[[Key], None],
    ) -> None:
        """`find_conflicts`: adapters whose names are another's, and why; `on_change`: status has something to say."""
        self._http = http
        self._store = store
        self._find_conflicts = find_conflicts
        self._on_change = on_change
        self._known: dict[Key, _Known] = {}
        self._slots = asyncio.Semaphore(REPLICAS_AT_ONCE)

    def concerns(self, key: Key) -> bool:
        """Whether there is anything to do for an LLMDeployment: most have no adapters."""
        deployment = self._store.find_deployment(key)
        return key in self._known or (deployment is not None and deployment.spec.adapters is not None)

    def view(self, deployment: LLMDeployment) -> tuple[AdapterView, ...]:
        """What status is to say about adapters."""
        conflicts = self._find_conflicts(deployment.key)
        seen = self._recall(deployment)
        return tuple(
            AdapterView(adapter.name, AdapterState.FAILED, 0, f"{conflicts[adapter.name]}. Give it another name.")
            if adapter.name in conflicts
            else seen.get(adapter.id) or AdapterView(adapter.name, AdapterState.PENDING, 0, "")
            for adapter in list_adapters(deployment)
        )

    async def settle(self, key: Key) -> float | None:
        """Take the next steps for one LLMDeployment; seconds until the next look."""
        deployment = self._store.find_deployment(key)
        if deployment is None or deployment.deleting or deployment.spec.adapters is None:
            self._known.pop(key, None)
            return None
        conflicts = self._find_conflicts(key)
        adapters = [adapter for adapter in list_adapters(deployment) if adapter.name not in conflicts]
        replicas = parse_replicas(self._store.list_pods(key))
        wanted = place(adapters, replicas)
        known = self._known.get(key)
        if known is None or known.uid != deployment.uid:
            known = _Known(deployment.uid)
        setbacks = known.setbacks
        tended = await asyncio.gather(
            *(self._tend(one, wanted[one.uid], setbacks.get((one.uid, one.restarts), {})) for one in replicas)
        )
        self._conclude(key, known, adapters, tended)
        return _next_look(tended)

    async def _tend(self, replica: Replica, wanted: Collection[Adapter], setbacks: Mapping[str, Setback]) -> _Tended:
        async with self._slots:
            holding = await observe(self._http, replica)
            # What an item that is gone met with is forgotten: put back, it gets another chance.
            setbacks = {one.id: setbacks[one.id] for one in wanted if one.id in setbacks}
            planned = plan_adapters(wanted, holding, setbacks, now=clock.monotonic())
            if replica.is_asleep:
                planned = tuple(move for move in planned if isinstance(move, Fetch))
            moves = planned[:MOVES_AT_ONCE]
            met = await execute(self._http, replica, moves, setbacks)
        return _Tended(replica, holding, {**setbacks, **met}, has_moved=bool(moves))

    def _conclude(self, key: Key, known: _Known, adapters: Collection[Adapter], tended: Collection[_Tended]) -> None:
        """Remember, and tell whoever writes status where there is news."""
        views = {
            adapter.id: view_adapter(
                adapter.name,
                [(one.replica, *assess(adapter, one.holding, one.setbacks.get(adapter.id))) for one in tended],
            )
            for adapter in adapters
        }
        setbacks = {(one.replica.uid, one.replica.restarts): one.setbacks for one in tended if one.setbacks}
        self._known[key] = _Known(known.uid, views, setbacks)
        if views != known.views:
            for identity, view in views.items():
                before = known.views.get(identity)
                if before is None or before.state is not view.state:
                    log.info("adapter", key=str(key), name=view.name, state=view.state, message=view.message)
            self._on_change(key)

    def _recall(self, deployment: LLMDeployment) -> Mapping[str, AdapterView]:
        known = self._known.get(deployment.key)
        if known is not None and known.uid == deployment.uid:
            return known.views
        if deployment.status.observed_generation != deployment.generation:
            return {}
        # Not looked at yet: repeat what status says, so that a restart of the operator changes nothing in it.
        said = {one.name: one for one in deployment.status.adapters}
        return {
            adapter.id: AdapterView(adapter.name, one.state, one.ready_replicas, one.message)
            for adapter in list_adapters(deployment)
            if (one := said.get(adapter.name)) is not None
        }


def _next_look(tended: Collection[_Tended]) -> float:
    """Soon where something is under way; else now and then, as an engine's restart may not show in its pod."""
    due = _STEADY_SECONDS
    now = clock.monotonic()
    for one in tended:
        shelves = [shelf for shelf in one.holding.shelves if shelf is not None]
        if one.has_moved:
            return _MOVING_SECONDS
        if any(found.is_coming for shelf in shelves for found in shelf.values()):
            due = min(due, _FETCHING_SECONDS)
        if len(shelves) < len(one.holding.shelves) or (one.replica.is_ready and one.holding.loaded is None):
            due = min(due, _STARTING_SECONDS)
        hopes = [setback.until - now for setback in one.setbacks.values() if not setback.is_final]
        due = min(due, *(max(_MOVING_SECONDS, hope) for hope in hopes)) if hopes else due
    return due
