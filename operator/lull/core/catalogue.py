"""Which LLMDeployment answers for which name. Read from the LLMDeployments alone, never from live pods."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  mypyc evaluates what annotates a field
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.api.adapters import AdapterItem
    from lull.api.llmdeployment import Key, LLMDeployment


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every name that clients may send as "model", and every claim to a name that was lost."""

    names: Mapping[str, Key] = field(default_factory=dict)
    """In the order in which they are listed to clients: oldest LLMDeployment first."""
    deployments: Mapping[Key, LLMDeployment] = field(default_factory=dict)
    """Those that own at least one name."""
    adapters: Mapping[str, AdapterItem] = field(default_factory=dict)
    """Those of the names that are adapters' own."""
    conflicts: Mapping[Key, str] = field(default_factory=dict)
    """What to tell an LLMDeployment that claims a name which an older one owns."""
    adapter_conflicts: Mapping[Key, Mapping[str, str]] = field(default_factory=dict)
    """The same of its adapters, for each by its name: only that adapter is not served."""

    def find(self, name: str) -> LLMDeployment | None:
        """Route: the LLMDeployment that answers for a name."""
        key = self.names.get(name)
        return None if key is None else self.deployments[key]


def build_catalogue(deployments: Iterable[LLMDeployment]) -> Catalogue:
    """Give each name to the oldest LLMDeployment that claims it, then to the first by namespace and name.

    One that loses a name keeps its others. One that is being deleted claims nothing, so its names are free at once.
    """
    names: dict[str, Key] = {}
    owners: dict[Key, LLMDeployment] = {}
    adapters: dict[str, AdapterItem] = {}
    conflicts: dict[Key, str] = {}
    adapter_conflicts: dict[Key, Mapping[str, str]] = {}
    for deployment in sorted(deployments, key=lambda one: (one.created_at, one.key)):
        if deployment.deleting:
            continue
        items = {item.name: item for item in deployment.spec.adapters.items} if deployment.spec.adapters else {}
        lost = {name: names[name] for name in (*deployment.served_names, *items) if name in names}
        won = [name for name in (*deployment.served_names, *items) if name not in lost]
        names.update(dict.fromkeys(won, deployment.key))
        adapters.update((name, items[name]) for name in won if name in items)
        if won:
            owners[deployment.key] = deployment
        if own := {name: owner for name, owner in lost.items() if name not in items}:
            conflicts[deployment.key] = _sentence(own)
        if taken := {name: _sentence({name: owner}) for name, owner in lost.items() if name in items}:
            adapter_conflicts[deployment.key] = taken
    return Catalogue(names, owners, adapters, conflicts, adapter_conflicts)


def _sentence(lost: Mapping[str, Key]) -> str:
    return " and ".join(f'"{name}" is already served by {owner}' for name, owner in lost.items())
