"""Who claims which names: when one LLMDeployment changes its claim, others may win or lose theirs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from lull.core.catalogue import Catalogue, build_catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lull.api.llmdeployment import Key, LLMDeployment
    from lull.doors.store import Store

_GATHER_SECONDS: Final = 0.1
"""How long changed claims are gathered: a thousand that come together are then judged a few times and not each."""


class Claims:
    """The conflicts over served names, kept up to date with the store."""

    def __init__(self, store: Store, enqueue: Callable[[Key], None]) -> None:
        self._store = store
        self._enqueue = enqueue
        self._seen: dict[Key, LLMDeployment] = {}
        self._claims: dict[Key, tuple[str, ...]] = {}
        self._catalogue = Catalogue()
        self._judging: asyncio.TimerHandle | None = None

    def find_conflict(self, key: Key) -> str | None:
        return self._catalogue.conflicts.get(key)

    def find_adapter_conflicts(self, key: Key) -> Mapping[str, str]:
        """Adapters whose names are another's, and why."""
        return self._catalogue.adapter_conflicts.get(key, {})

    def take(self, key: Key) -> None:
        """Look at one LLMDeployment again, and soon judge all where its claim has changed."""
        deployment = self._store.find_deployment(key)
        if deployment is self._seen.get(key):
            return
        self._seen.pop(key, None)
        if deployment is not None:
            self._seen[key] = deployment
        claim = (
            ()
            if deployment is None or deployment.deleting
            else (deployment.uid, *deployment.served_names, "", *deployment.adapter_names)
        )
        if claim == self._claims.get(key, ()):
            return
        self._claims.pop(key, None)
        if claim:
            self._claims[key] = claim
        if self._judging is None:
            self._judging = asyncio.get_running_loop().call_later(_GATHER_SECONDS, self.judge)

    def judge(self) -> None:
        """Find who owns which names; those whose conflict came, changed or went are reconciled."""
        if self._judging is not None:
            self._judging.cancel()
            self._judging = None
        earlier, self._catalogue = self._catalogue, build_catalogue(self._store.list_deployments())
        for before, after in (
            (earlier.conflicts, self._catalogue.conflicts),
            (earlier.adapter_conflicts, self._catalogue.adapter_conflicts),
        ):
            for changed in before.keys() | after.keys():
                if before.get(changed) != after.get(changed):
                    self._enqueue(changed)
