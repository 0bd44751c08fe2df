"""Which LLMDeployment answers for which name. Read from the LLMDeployments alone, never from live pods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lull.api.llmdeployment import Key, LLMDeployment


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every name that clients may send as "model", and every claim to a name that was lost."""

    names: Mapping[str, Key] = field(default_factory=dict)
    """In the order in which they are listed to clients: oldest LLMDeployment first."""
    deployments: Mapping[Key, LLMDeployment] = field(default_factory=dict)
    """Those that own at least one name."""
    conflicts: Mapping[Key, str] = field(default_factory=dict)
    """What to tell an LLMDeployment that claims a name which an older one owns."""

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
    conflicts: dict[Key, str] = {}
    for deployment in sorted(deployments, key=lambda one: (one.created_at, one.key)):
        if deployment.deleting:
            continue
        lost = {name: names[name] for name in deployment.served_names if name in names}
        won = [name for name in deployment.served_names if name not in lost]
        names.update(dict.fromkeys(won, deployment.key))
        if won:
            owners[deployment.key] = deployment
        if lost:
            conflicts[deployment.key] = _sentence(lost)
    return Catalogue(names, owners, conflicts)


def _sentence(lost: Mapping[str, Key]) -> str:
    return " and ".join(f'"{name}" is already served by {owner}' for name, owner in lost.items())
