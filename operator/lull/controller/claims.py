"""Who claims which names: when one LLMDeployment changes its claim, others may win or lose theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lull.core.catalogue import build_catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import Key, LLMDeployment
    from lull.doors.store import Store


class Claims:
    """The conflicts over served names, kept up to date with the store."""

    def __init__(self, store: Store, enqueue: Callable[[Key], None]) -> None:
        self._store = store
        self._enqueue = enqueue
        self._claims: dict[Key, LLMDeployment] = {}
        self._claimants: dict[str, set[Key]] = {}
        self._owners: dict[str, Key] = {}
        self._conflicts: dict[Key, str] = {}

    def find_conflict(self, key: Key) -> str | None:
        return self._conflicts.get(key)

    def take(self, key: Key) -> None:
        """Look at one LLMDeployment again; those whose conflict came, changed or went are reconciled."""
        earlier, deployment = self._claims.get(key), self._store.find_deployment(key)
        if deployment is not None and deployment.deleting:
            deployment = None
        if _claim(earlier) == _claim(deployment):
            return
        touched = {*_names(earlier), *_names(deployment)}
        self._claims.pop(key, None)
        for name in _names(earlier):
            self._claimants[name].discard(key)
        if deployment is not None:
            self._claims[key] = deployment
            for name in _names(deployment):
                self._claimants.setdefault(name, set()).add(key)
        concerned = {key}
        for name in touched:
            if self._elect(name):
                concerned |= self._claimants.get(name, set())
        for one in concerned:
            self._judge(one)

    def _elect(self, name: str) -> bool:
        """Find who owns a name now; whether that is somebody else than before."""
        before = self._owners.pop(name, None)
        claimants = self._claimants[name]
        if not claimants:
            del self._claimants[name]
            return before is not None
        catalogue = build_catalogue(self._claims[claimant] for claimant in claimants)
        self._owners[name] = catalogue.names[name]
        return self._owners[name] != before

    def _judge(self, key: Key) -> None:
        """Say of one LLMDeployment which names it lost, and to whom."""
        before, deployment = self._conflicts.pop(key, None), self._claims.get(key)
        if deployment is not None:
            rivals = {self._owners[name]: self._claims[self._owners[name]] for name in deployment.served_names}
            conflict = build_catalogue({**rivals, key: deployment}.values()).conflicts.get(key)
            if conflict is not None:
                self._conflicts[key] = conflict
        if self._conflicts.get(key) != before:
            self._enqueue(key)


def _claim(deployment: LLMDeployment | None) -> tuple[str, ...]:
    return () if deployment is None else (deployment.uid, deployment.created_at, *deployment.served_names)


def _names(deployment: LLMDeployment | None) -> tuple[str, ...]:
    return () if deployment is None else deployment.served_names
