"""Which model answers instead of the one that was asked for: by the length of the prompt, or because that one cannot.

An LLMDeployment's own lists decide, in their order: its routes, then itself, then its fallbacks. Lists of the models in
them are not followed, and nothing goes back in that order, so that a request is with each model once at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lull.api.llmdeployment import Key, LLMDeployment
    from lull.core.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as it matters here."""

    name: str
    deployment: LLMDeployment
    """Of the model that was asked for, by a name of its own: adapters have no stand-in."""
    prompt_tokens: int
    allows: Callable[[str], bool]
    """Whether whoever asks may use a model by this name."""


@dataclass(frozen=True, slots=True)
class StandIn:
    """A model that may answer."""

    name: str
    """What it is called there, the adapter where it is one."""
    deployment: LLMDeployment
    adapter: str

    @property
    def key(self) -> Key:
        return self.deployment.key


@dataclass(frozen=True, slots=True)
class Detour:
    """Where a request goes first."""

    stand_in: StandIn | None
    """None: to the model that was asked for."""
    missed: tuple[Key, ...] = ()
    """Models that should have had it and sleep: they are to wake."""


@dataclass(frozen=True, slots=True)
class State:
    """What endpoints can do now; the shell knows."""

    is_cold: Callable[[Key], bool]
    """No replica is ready."""
    has_room: Callable[[Key, str], bool]
    """A request, for an adapter where one is named, would not wait."""


def choose(asked: Asked, catalogue: Catalogue, state: State) -> Detour:
    """Where a request goes that has just come in."""
    missed: list[Key] = []
    for stand_in in _list_routes(asked, catalogue):
        if state.has_room(stand_in.key, stand_in.adapter):
            return Detour(stand_in, tuple(missed))
        if state.is_cold(stand_in.key):
            missed.append(stand_in.key)
    own = asked.deployment.key
    if state.is_cold(own):
        for stand_in in _list_fallbacks(asked, catalogue):
            if state.has_room(stand_in.key, stand_in.adapter):
                return Detour(stand_in, (*missed, own))
    return Detour(None, tuple(missed))


def choose_next(asked: Asked, catalogue: Catalogue, state: State, *, failed: Key) -> StandIn | None:
    """Who may have a request that one model would not or could not answer; None where it is to be refused.

    The model that was asked for takes on what a route's could not, be it that it waits there. A fallback must have
    room: what it would hold may as well be sent again.
    """
    own = asked.deployment.key
    if failed != own and failed in {stand_in.key for stand_in in _list_routes(asked, catalogue)}:
        return StandIn(asked.name, asked.deployment, "")
    later = list(_list_fallbacks(asked, catalogue))
    at = next((index for index, stand_in in enumerate(later) if stand_in.key == failed), -1)
    return next((one for one in later[at + 1 :] if state.has_room(one.key, one.adapter)), None)


def _list_routes(asked: Asked, catalogue: Catalogue) -> Iterator[StandIn]:
    for route in asked.deployment.spec.routes:
        if asked.prompt_tokens <= route.max_prompt_tokens:
            yield from _find(route.model, asked, catalogue)


def _list_fallbacks(asked: Asked, catalogue: Catalogue) -> Iterator[StandIn]:
    routed = {stand_in.key for stand_in in _list_routes(asked, catalogue)}
    for name in asked.deployment.spec.fallback:
        yield from (found for found in _find(name, asked, catalogue) if found.key not in routed)


def _find(name: str, asked: Asked, catalogue: Catalogue) -> Iterator[StandIn]:
    """The model of that name, if it is there, does the same task, has room for the prompt, and may be used."""
    found = catalogue.find(name)
    if found is None or found.key == asked.deployment.key or not asked.allows(name):
        return
    if found.spec.model.task is not asked.deployment.spec.model.task:
        return
    longest = found.spec.engine.max_model_len
    if longest is not None and asked.prompt_tokens >= longest:
        return
    yield StandIn(name, found, name if name in catalogue.adapters else "")
