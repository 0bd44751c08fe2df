"""Model → endpoint: filter, score, pick; and how often a failed request may try again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.llmdeployment import Key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lull.api.llmdeployment import LLMDeployment, Manifest

DEFAULT_MAX_NUM_SEQS: Final = 256
"""What vLLM runs at a time where nothing is set; on the largest GPUs it is more."""
SLOTS_PER_SEQUENCE: Final = 2
"""An engine is kept busy by as many waiting as running. The rest is held here, where a new endpoint can get it."""

FIRST_PENALTY: Final = 0.25
LONGEST_PENALTY: Final = 8.0

RETRY_RATIO: Final = 0.2
RETRY_FLOOR: Final = 10.0
RETRY_BURST: Final = 100.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of a replica, and whether it may get new requests."""

    uid: str
    pod: str
    key: Key
    host: str
    port: int
    ready: bool
    """Ready and not draining."""

    @property
    def origin(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@dataclass(slots=True)
class Candidate:
    """An endpoint and what this gateway has going on with it; the shell keeps it up to date."""

    endpoint: Endpoint
    in_flight: int = 0
    failures: int = 0
    """In a row."""
    avoid_until: float = 0.0
    adapters: Collection[str] = ()
    """Names of the adapters that its engine said it has."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What there is to know about the request that an endpoint is picked for."""

    slots: int
    turn: int
    tried: Collection[str] = ()
    """Endpoints (by uid) that failed this request before."""
    adapter: str = ""
    """The adapter that is asked for; empty for the model itself, which every endpoint has."""


def parse_endpoint(pod: Manifest) -> Endpoint | None:
    """The endpoint that an engine pod is; None while it has no address or is nobody's."""
    metadata = pod["metadata"]
    status = pod.get("status") or {}
    deployment = (metadata.get("labels") or {}).get(names.LABEL_DEPLOYMENT)
    host = status.get("podIP")
    if not deployment or not host:
        return None
    ready = any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in status.get("conditions") or ()
    )
    return Endpoint(
        uid=metadata["uid"],
        pod=metadata["name"],
        key=Key(metadata["namespace"], deployment),
        host=host,
        port=_port(pod),
        ready=ready and "deletionTimestamp" not in metadata,
    )


def slots(deployment: LLMDeployment) -> int:
    """Requests that one endpoint is given at a time."""
    return SLOTS_PER_SEQUENCE * (deployment.spec.engine.max_num_seqs or DEFAULT_MAX_NUM_SEQS)


def free(candidates: Iterable[Candidate], *, slots: int, now: float, adapter: str = "") -> int:
    """Requests for an adapter, or for the model itself, that could be passed on right now."""
    return sum(
        slots - candidate.in_flight
        for candidate in candidates
        if is_open(candidate, now) and candidate.in_flight < slots and has_adapter(candidate, adapter)
    )


def is_open(candidate: Candidate, now: float) -> bool:
    return candidate.endpoint.ready and now >= candidate.avoid_until


def has_adapter(candidate: Candidate, adapter: str) -> bool:
    """Whether an endpoint serves an adapter, as far as its engine said; the model itself all do."""
    return not adapter or adapter in candidate.adapters


def pick(candidates: Iterable[Candidate], choice: Choice, *, now: float) -> Candidate | None:
    """Filter → score → pick: the open endpoint with the least in flight, equals in turn.

    One that failed this very request is taken only where there is no other.
    """
    fit = [
        candidate
        for candidate in candidates
        if is_open(candidate, now) and candidate.in_flight < choice.slots and has_adapter(candidate, choice.adapter)
    ]
    if not fit:
        return None
    best = min(_score(candidate, choice) for candidate in fit)
    equals = [candidate for candidate in fit if _score(candidate, choice) == best]
    return equals[choice.turn % len(equals)]


def record_failure(candidate: Candidate, *, now: float) -> float:
    """Avoid an endpoint for a while, longer each time; the end of that while.

    Failures of requests that were sent before the first one was noticed count as one.
    """
    if now >= candidate.avoid_until:
        candidate.failures += 1
        candidate.avoid_until = now + min(LONGEST_PENALTY, FIRST_PENALTY * 2.0 ** (candidate.failures - 1))
    return candidate.avoid_until


def record_success(candidate: Candidate) -> None:
    candidate.failures = 0


class RetryBudget:
    """Retries may be a fifth of what arrives, and a few in any case; more of them wait rather than fail.

    An engine's death makes every request on it try again at once, which the burst covers. What the budget prevents
    is that failing engines are asked ever more often because they fail.
    """

    def __init__(self) -> None:
        self._tokens = RETRY_BURST
        self._at = 0.0

    def record_request(self, *, now: float) -> None:
        self._refill(now)
        self._tokens = min(RETRY_BURST, self._tokens + RETRY_RATIO)

    def take(self, *, now: float) -> float:
        """Seconds to wait before the next retry."""
        self._refill(now)
        self._tokens -= 1
        return max(0.0, -self._tokens / RETRY_FLOOR)

    def _refill(self, now: float) -> None:
        self._tokens = min(RETRY_BURST, self._tokens + RETRY_FLOOR * max(0.0, now - self._at))
        self._at = max(now, self._at)


def _score(candidate: Candidate, choice: Choice) -> tuple[bool, int]:
    return candidate.endpoint.uid in choice.tried, candidate.in_flight


def _port(pod: Manifest) -> int:
    for container in pod["spec"].get("containers", ()):
        for port in container.get("ports") or ():
            if port.get("name") == "http":
                number: int = port["containerPort"]
                return number
    return names.PORT_ENGINE
