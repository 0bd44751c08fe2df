"""Model → endpoint: filter, score, pick; and how often a failed request may try again."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from lull.api import names
from lull.api.llmdeployment import Key
from lull.core.affinity import Work

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from lull.api.llmdeployment import LLMDeployment, Manifest

DEFAULT_MAX_NUM_SEQS: Final = 256
"""What vLLM runs at a time where nothing is set; on the largest GPUs it is more."""
SLOTS_PER_SEQUENCE: Final = 2
"""An engine is kept busy by as many waiting as running. The rest is held here, where a new endpoint can get it."""

HORIZON: Final = 1_048_576.0
"""Tokens that an engine is taken to keep of what this gateway sends it, until it says what it had kept."""
SHORTEST_HORIZON: Final = 16_384.0
LONGEST_HORIZON: Final = 4_194_304.0
"""At 256 tokens a block and 80 bytes for each, 1.3 MB for an endpoint."""
WANTED_ACCURACY: Final = 0.75
HASTE: Final = 4.0
CACHE_WEIGHT: Final = 4.0
SLACK: Final = 0.1

FIRST_PENALTY: Final = 0.25
LONGEST_PENALTY: Final = 8.0

RETRY_RATIO: Final = 0.2
RETRY_FLOOR: Final = 10.0
RETRY_BURST: Final = 100.0

_WORD: Final = 2**64 - 1


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
    revision: str = ""
    """Of the pod; empty for an engine that nobody rolls out."""
    node: str = ""
    """The node that its pod is on."""

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
    fingerprint: bytes | None = None
    """What its engine calls its system, for streams whose usage is taken out again (`wire.sifting`)."""
    leaving: bool = False
    """Its node is about to go: nothing new for it while there is another."""
    outstanding: int = 0
    """Tokens that it has yet to read and to write, of what this gateway sent."""
    recent: set[int] = field(default_factory=set)
    """Blocks that this gateway sent lately, and so are probably in its cache."""
    earlier: set[int] = field(default_factory=set)
    """Those before."""
    read: float = 0.0
    """Tokens that it had to read since `recent` was begun."""
    horizon: float = HORIZON
    """Tokens after which it has forgotten what it read."""
    salt: int = field(init=False)
    """Its place in the order that all gateways have in common."""

    def __post_init__(self) -> None:
        self.salt = int.from_bytes(blake2b(self.endpoint.uid.encode(), digest_size=8).digest(), "big")


_NO_WORK: Final = Work(0, 0)


class Choice(NamedTuple):
    """What there is to know about the request that an endpoint is picked for."""

    slots: int
    turn: int
    tried: Collection[str] = ()
    """Endpoints (by uid) that failed this request before."""
    adapter: str = ""
    """The adapter that is asked for; empty for the model itself, which every endpoint has."""
    work: Work = _NO_WORK


def parse_endpoint(pod: Manifest) -> Endpoint | None:
    """The endpoint that an engine pod is; None while it has no address or is nobody's."""
    metadata = pod["metadata"]
    status = pod.get("status") or {}
    labels = metadata.get("labels") or {}
    deployment = labels.get(names.LABEL_DEPLOYMENT)
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
        revision=labels.get(names.LABEL_REVISION, ""),
        node=pod["spec"].get("nodeName") or "",
    )


def slots(deployment: LLMDeployment) -> int:
    """Requests that one endpoint is given at a time."""
    return SLOTS_PER_SEQUENCE * (deployment.spec.engine.max_num_seqs or DEFAULT_MAX_NUM_SEQS)


def free(candidates: Iterable[Candidate], *, slots: int, now: float, adapter: str = "") -> int:
    """Requests for an adapter, or for the model itself, that could be passed on right now."""
    room = room_of_leaving = 0
    is_one_staying = False
    for candidate in candidates:
        if now >= candidate.avoid_until and candidate.endpoint.ready and (not adapter or adapter in candidate.adapters):
            if candidate.leaving:
                room_of_leaving += max(0, slots - candidate.in_flight)
            else:
                is_one_staying = True
                if candidate.in_flight < slots:
                    room += slots - candidate.in_flight
    return room if is_one_staying else room_of_leaving


def is_open(candidate: Candidate, now: float) -> bool:
    return candidate.endpoint.ready and now >= candidate.avoid_until


def has_adapter(candidate: Candidate, adapter: str) -> bool:
    """Whether an endpoint serves an adapter, as far as its engine said; the model itself all do."""
    return not adapter or adapter in candidate.adapters


def pick(candidates: Iterable[Candidate], choice: Choice, *, now: float) -> Candidate | None:
    """Filter → score → pick: where the request is read soonest.

    That is where the least is outstanding, counting what the engine would have to read of this prompt: one that has
    its beginning in its cache may have more to do. Of those that are about as good, all gateways take the same.
    One that failed this very request is taken only where there is no other.
    """
    fit = _list_fit(candidates, choice.slots, now, choice.adapter)
    if choice.tried:
        fit = [candidate for candidate in fit if candidate.endpoint.uid not in choice.tried] or fit
    if len(fit) < 2:
        return fit[0] if fit else None
    if choice.work.blocks:
        return _pick_near(fit, choice.work)
    least = min(candidate.outstanding for candidate in fit)
    idle = [candidate for candidate in fit if candidate.outstanding == least]
    fewest = min(candidate.in_flight for candidate in idle)
    equals = [candidate for candidate in idle if candidate.in_flight == fewest]
    return equals[choice.turn % len(equals)]


def record_start(candidate: Candidate, work: Work) -> None:
    """A request is sent to an endpoint."""
    blocks = work.blocks
    work.pending = work.prompt_tokens
    if blocks:
        work.pending -= work.prompt_tokens * _count_known(candidate, blocks) // len(blocks)
        candidate.recent.update(blocks)
    work.known = work.prompt_tokens - work.pending
    candidate.read += work.pending + work.output_tokens
    if candidate.read >= candidate.horizon / 2:
        candidate.earlier, candidate.recent, candidate.read = candidate.recent, set(), 0.0
    candidate.in_flight += 1
    candidate.outstanding += work.pending + work.output_tokens


def record_first_byte(candidate: Candidate, work: Work) -> None:
    """The engine answers, so it has read the prompt."""
    candidate.outstanding -= work.pending
    work.pending = 0


def record_finish(candidate: Candidate, work: Work, cached_tokens: int | None = None) -> None:
    """The try is over, however it ended; of the prompt, the engine said, it had so much in its cache."""
    candidate.in_flight -= 1
    candidate.outstanding -= work.pending + work.output_tokens
    work.pending = 0
    if cached_tokens is not None and work.known:
        # Remembered for too long, much of what is expected of its cache is not there.
        right = min(cached_tokens, work.known)
        horizon = candidate.horizon + HASTE * (right - WANTED_ACCURACY * work.known)
        candidate.horizon = min(LONGEST_HORIZON, max(SHORTEST_HORIZON, horizon))


def forget_blocks(candidate: Candidate) -> None:
    """Its engine started anew, and has an empty cache."""
    candidate.recent, candidate.earlier = set(), set()


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
        tokens = self._tokens + RETRY_RATIO
        if now > self._at:
            tokens += RETRY_FLOOR * (now - self._at)
            self._at = now
        self._tokens = min(RETRY_BURST, tokens)

    def take(self, *, now: float) -> float:
        """Seconds to wait before the next retry."""
        self._refill(now)
        self._tokens -= 1
        return max(0.0, -self._tokens / RETRY_FLOOR)

    def _refill(self, now: float) -> None:
        self._tokens = min(RETRY_BURST, self._tokens + RETRY_FLOOR * max(0.0, now - self._at))
        self._at = max(now, self._at)


def _list_fit(candidates: Iterable[Candidate], slots: int, now: float, adapter: str) -> list[Candidate]:
    """Endpoints that may get a request.

    Those that are about to leave are spared while another is open, even one that is full: that one has the longer life.
    """
    fit: list[Candidate] = []
    leaving: list[Candidate] = []
    is_one_staying = False
    for candidate in candidates:
        if now >= candidate.avoid_until and candidate.endpoint.ready and (not adapter or adapter in candidate.adapters):
            if candidate.leaving:
                leaving.append(candidate)
            else:
                is_one_staying = True
                if candidate.in_flight < slots:
                    fit.append(candidate)
    return fit if is_one_staying else [candidate for candidate in leaving if candidate.in_flight < slots]


def _pick_near(fit: list[Candidate], work: Work) -> Candidate:
    blocks = work.blocks
    known = [_count_known(candidate, blocks) for candidate in fit]
    share = work.prompt_tokens / len(blocks)
    costs = [candidate.outstanding - CACHE_WEIGHT * count * share for candidate, count in zip(fit, known, strict=True)]
    limit = min(costs) + SLACK * work.prompt_tokens
    multiplier = 2 * blocks[min(max(known), len(blocks) - 1)] + 1
    near = [candidate for candidate, cost in zip(fit, costs, strict=True) if cost <= limit]
    return max(near, key=lambda candidate: candidate.salt * multiplier & _WORD)


def _count_known(candidate: Candidate, blocks: Sequence[int]) -> int:
    """Blocks at the beginning that an endpoint was sent before. Whoever has one has all before it."""
    recent, earlier = candidate.recent, candidate.earlier
    low, high = 0, len(blocks)
    if blocks[0] not in recent and blocks[0] not in earlier:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        block = blocks[middle - 1]
        if block in recent or block in earlier:
            low = middle
        else:
            high = middle - 1
    return low


def _port(pod: Manifest) -> int:
    for container in pod["spec"].get("containers", ()):
        for port in container.get("ports") or ():
            if port.get("name") == "http":
                number: int = port["containerPort"]
                return number
    return names.PORT_ENGINE
