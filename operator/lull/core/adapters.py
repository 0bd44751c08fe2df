"""Which adapters a replica is to have, and what to do next to get there.

An adapter is in one of these places, and `plan_adapters` moves it on:

    wanted ──Fetch──► in the pod ──Load──► in the engine ──Unload──► in the pod ──Forget──► gone

What a replica has is read off its sidecars and off its engine's own `/v1/models` each time, so that whatever restarts
heals. What is remembered is only what the engine refused: it is not asked for that again until the item changes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum, unique
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from lull.api import names
from lull.api.addresses import render_origin
from lull.api.status import AdapterState
from lull.core.replicas import exists, is_asleep, is_ready
from lull.core.status import AdapterView

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lull.api.llmdeployment import LLMDeployment, Manifest

MAX_TRIES: Final = 5
"""Loads of one adapter that an engine may fail for reasons that we do not know, before it counts as refused."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0

_MESSAGE_LIMIT: Final = 1024
_DETAIL_LIMIT: Final = 300
_SLUG: Final = re.compile(r"[^a-z0-9]+")
_SLUG_LIMIT: Final = 40
_GROUP: Final = "leaderworkerset.sigs.k8s.io/group-key"

_REFUSALS: Final = (
    (
        re.compile(r"rank (\d+) is greater than max_lora_rank (\d+)"),
        "Its rank {0} is over spec.adapters.maxRank, {1}: raise that, or train it with a lower rank.",
    ),
    (
        re.compile(r"expected target modules in .* but received \[([^\]]*)\]", re.DOTALL),
        "It changes modules that the model lacks ({0}): it was made for another model.",
    ),
    (
        re.compile(r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)"),
        "Its tensors do not fit the model ({1} where {0} is right): it was made for another one.",
    ),
    (
        re.compile("conflicts with a served base model"),
        "The engine serves the model itself under this name: give the adapter another one.",
    ),
)
"""What vLLM says of adapters that it can never load, and what that means."""


@dataclass(frozen=True, slots=True, order=True)
class Adapter:
    """An item of `spec.adapters`."""

    name: str
    source: str

    @property
    def id(self) -> str:
        """Name of its folder: another source is another folder, so that the one never stands in for the other."""
        digest = sha256(f"{self.name}\n{self.source}".encode()).hexdigest()[:8]
        return f"{_SLUG.sub('-', self.name.lower()).strip('-')[:_SLUG_LIMIT]}-{digest}"


@dataclass(frozen=True, slots=True)
class Replica:
    """Where the parts of one replica listen."""

    uid: str
    pod: str
    restarts: int
    """Of the engine's container: a new process has refused nothing yet."""
    is_ready: bool
    engine: str
    """Base URL."""
    shelves: tuple[str, ...]
    """Base URLs of the sidecars: one in each pod of the replica, since every pod loads from its own disk."""
    is_asleep: bool = False
    """Then its engine has no memory to load anything into."""


@unique
class ShelfState(StrEnum):
    FETCHING = "Fetching"
    READY = "Ready"
    FAILED = "Failed"
    """Trying again would not help."""


@dataclass(frozen=True, slots=True)
class Shelved:
    """One adapter in a pod, as its sidecar says."""

    state: ShelfState
    message: str = ""
    path: str = ""
    """Its folder, which the engine sees at the same place."""

    @property
    def is_coming(self) -> bool:
        return self.state is ShelfState.FETCHING


@dataclass(frozen=True, slots=True)
class Holding:
    """What one replica has."""

    shelves: tuple[Mapping[str, Shelved] | None, ...]
    """By id, for each sidecar; None for one that does not answer."""
    loaded: Mapping[str, str] | None
    """Path by name; None where the engine is not ready or does not answer."""


@dataclass(frozen=True, slots=True)
class Setback:
    """A load that the engine refused."""

    message: str
    is_final: bool
    tries: int
    until: float
    """When to try again."""


@dataclass(frozen=True, slots=True)
class Fetch:
    shelf: int
    adapter: Adapter


@dataclass(frozen=True, slots=True)
class Load:
    adapter: Adapter
    path: str
    in_place: bool
    """Under this name the engine has another one, of an earlier source."""


@dataclass(frozen=True, slots=True)
class Unload:
    name: str


@dataclass(frozen=True, slots=True)
class Forget:
    shelf: int
    id: str


Move = Fetch | Load | Unload | Forget


def list_adapters(deployment: LLMDeployment) -> tuple[Adapter, ...]:
    """Every adapter of the spec."""
    spec = deployment.spec.adapters
    return tuple(Adapter(item.name, item.source) for item in spec.items) if spec is not None else ()


def place(adapters: Collection[Adapter], replicas: Iterable[Replica]) -> Mapping[str, tuple[Adapter, ...]]:
    """Decide which replica (by uid) is to have which adapters: every one has all of them."""
    wanted = tuple(adapters)
    return {replica.uid: wanted for replica in replicas}


def plan_adapters(
    wanted: Collection[Adapter], holding: Holding, setbacks: Mapping[str, Setback], *, now: float
) -> tuple[Move, ...]:
    """What to do next on one replica, in this order.

    Files go only after the engine has let go of the adapter: it reads them again when one returns to its memory.
    """
    loaded = holding.loaded or {}
    used = {_folder(path) for path in loaded.values()}
    needed = {adapter.id for adapter in wanted}
    named = {adapter.name for adapter in wanted}
    return (
        *(Unload(name) for name in loaded if name not in named),
        *(
            Fetch(number, adapter)
            for number, shelf in enumerate(holding.shelves)
            if shelf is not None
            for adapter in wanted
            if adapter.id not in shelf
        ),
        *(
            Load(adapter, path, in_place=adapter.name in loaded)
            for adapter in wanted
            if holding.loaded is not None
            and not _is_loaded(adapter, holding)
            and (path := _find_path(adapter, holding)) is not None
            and not _is_held_off(setbacks.get(adapter.id), now)
        ),
        *(
            Forget(number, one)
            for number, shelf in enumerate(holding.shelves)
            if shelf is not None and holding.loaded is not None
            for one in shelf
            if one not in needed and one not in used
        ),
    )


def record_refusal(known: Setback | None, status: int, body: bytes, *, now: float) -> Setback | None:
    """What an engine's answer to a load leaves to remember; None where the adapter is loaded after all."""
    detail = _read_error(body)
    if status == 200 or (status == 400 and "has already been loaded" in detail):
        return None
    tries = known.tries + 1 if known is not None else 1
    message, is_final = _explain(status, detail)
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (tries - 1))
    return Setback(message, is_final or tries >= MAX_TRIES, tries, until=now + pause)


def assess(adapter: Adapter, holding: Holding | None, setback: Setback | None) -> tuple[AdapterState, str]:
    """How far an adapter is on one replica, and why not further."""
    if holding is None:
        return AdapterState.PENDING, ""
    found = [shelf.get(adapter.id) if shelf is not None else None for shelf in holding.shelves]
    notes = next((one.message for one in found if one is not None and one.message), "")
    if _is_loaded(adapter, holding):
        return AdapterState.READY, notes
    if any(one is not None and one.state is ShelfState.FAILED for one in found):
        return AdapterState.FAILED, notes
    if _find_path(adapter, holding) is None:
        return (AdapterState.PENDING if None in found else AdapterState.FETCHING), notes
    if setback is not None:
        return (AdapterState.FAILED if setback.is_final else AdapterState.LOADING), setback.message
    return AdapterState.LOADING, notes


def view_adapter(name: str, findings: Sequence[tuple[Replica, AdapterState, str]]) -> AdapterView:
    """What status says of an adapter: the state on the ready replica that is furthest behind.

    While none is ready, a replica that starts may have begun to fetch, or have failed to.
    """
    ready = [finding for finding in findings if finding[0].is_ready]
    considered = ready or list(findings)
    if not considered:
        return AdapterView(name, AdapterState.PENDING, 0, "No replica runs; it is loaded when one does.")
    replica, state, message = min(considered, key=lambda one: (_ORDER.index(one[1]), one[0].pod))
    where = f"{replica.pod}: " if message and len(considered) > 1 and state is not AdapterState.READY else ""
    loaded = sum(one is AdapterState.READY for _, one, _ in ready)
    return AdapterView(name, state, loaded, f"{where}{message}"[:_MESSAGE_LIMIT])


def parse_replicas(pods: Iterable[Manifest]) -> tuple[Replica, ...]:
    """The replicas that engine pods are, each with the pods of its group; those that go or have ended are left out."""
    staying = [pod for pod in pods if _is_staying(pod)]
    leaders = [pod for pod in staying if _label(pod, names.LABEL_COMPONENT) == names.COMPONENT_ENGINE]
    workers = [pod for pod in staying if _label(pod, names.LABEL_COMPONENT) == names.COMPONENT_WORKER]
    return tuple(
        Replica(
            uid=leader["metadata"]["uid"],
            pod=leader["metadata"]["name"],
            restarts=sum(one.get("restartCount", 0) for one in leader["status"].get("containerStatuses") or ()),
            is_ready=is_ready(leader),
            is_asleep=is_asleep(leader),
            engine=_url(leader, "http", names.PORT_ENGINE),
            shelves=tuple(
                _url(pod, "adapters", names.PORT_ADAPTERS)
                for pod in (
                    leader,
                    *(pod for pod in workers if _group(pod) is not None and _group(pod) == _group(leader)),
                )
            ),
        )
        for leader in sorted(leaders, key=lambda pod: pod["metadata"]["name"])
    )


def parse_shelf(content: bytes) -> Mapping[str, Shelved]:
    """Read a sidecar's list; ValueError for anything else."""
    try:
        return {
            one["id"]: Shelved(ShelfState(one["state"]), str(one.get("message") or ""), one["path"])
            for one in json.loads(content)["adapters"]
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a list of adapters: {error!r}") from error


def parse_loaded(content: bytes) -> Mapping[str, str]:
    """Read an engine's `/v1/models`: the path of each adapter by its name; ValueError for anything else."""
    try:
        cards = json.loads(content)["data"]
        return {card["id"]: str(card.get("root") or "") for card in cards if card.get("parent") is not None}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of models: {error!r}") from error


_ORDER: Final = (
    AdapterState.FAILED,
    AdapterState.PENDING,
    AdapterState.FETCHING,
    AdapterState.LOADING,
    AdapterState.READY,
)
"""From furthest behind to done."""


def _is_loaded(adapter: Adapter, holding: Holding) -> bool:
    return holding.loaded is not None and _folder(holding.loaded.get(adapter.name, "")) == adapter.id


def _find_path(adapter: Adapter, holding: Holding) -> str | None:
    """Where its files are; None until every pod of the replica has them."""
    found = [shelf.get(adapter.id) if shelf is not None else None for shelf in holding.shelves]
    if any(one is None or one.state is not ShelfState.READY for one in found):
        return None
    return next((one.path for one in found if one is not None), None)


def _folder(path: str) -> str:
    """The part of a path that the adapter's id is."""
    return path.rstrip("/").rpartition("/")[2]


def _is_held_off(setback: Setback | None, now: float) -> bool:
    return setback is not None and (setback.is_final or now < setback.until)


def _explain(status: int, detail: str) -> tuple[str, bool]:
    """A sentence for what an engine answered to a load, and whether trying again is pointless."""
    for pattern, sentence in _REFUSALS:
        if match := pattern.search(detail):
            return sentence.format(*(_shorten(group) for group in match.groups())), True
    if status == 404 and "No adapter found" in detail:
        return "The engine does not find its files.", False
    if status in {404, 405}:
        return "The engine has no endpoint to load adapters: spec.engine.image must be a vLLM that serves LoRA.", True
    is_final = 400 <= status < 500 and status != 429
    return f"The engine does not load it ({status}): {detail[:_DETAIL_LIMIT]}", is_final


def _shorten(group: str) -> str:
    """Of a list of modules, one for each layer, the kinds; a number as it is."""
    kinds = dict.fromkeys(part.strip(" '\"").rpartition(".")[2] for part in group.split(","))
    return ", ".join(kinds)[:_DETAIL_LIMIT]


def _read_error(body: bytes) -> str:
    try:
        content: Any = json.loads(body)
    except ValueError:
        return body.decode(errors="replace").strip()
    error = content.get("error") if isinstance(content, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else body.decode(errors="replace").strip()


def _is_staying(pod: Manifest) -> bool:
    return exists(pod) and bool((pod.get("status") or {}).get("podIP"))


def _label(pod: Manifest, key: str) -> str | None:
    value: str | None = (pod["metadata"].get("labels") or {}).get(key)
    return value


def _group(pod: Manifest) -> str | None:
    return _label(pod, _GROUP)


def _url(pod: Manifest, port: str, default: int) -> str:
    host: str = pod["status"]["podIP"]
    containers = (*(pod["spec"].get("initContainers") or ()), *(pod["spec"].get("containers") or ()))
    number = next(
        (
            one["containerPort"]
            for container in containers
            for one in container.get("ports") or ()
            if one.get("name") == port
        ),
        default,
    )
    return render_origin(host, number)
