"""Model → endpoint: filter, score, pick; and how often a failed request may try again."""

from __future__ import annotations

from collections.abc import Collection  # noqa: TC003  mypyc evaluates what annotates a field
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.addresses import render_origin
from lull.api.llmdeployment import Key
from lull.core.affinity import Work
from lull.core.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lull.api.llmdeployment import LLMDeployment, Manifest

DEFAULT_MAX_NUM_SEQS: Final = 256
"""What vLLM runs at a time where nothing is set; on the largest GPUs it is more."""
SLOTS_PER_SEQUENCE: Final = 2
"""An engine is kept busy by as many waiting as running. The rest is held here, where a new endpoint can get it."""

CACHE_WEIGHT: Final = 4.0
"""Tokens outstanding that an engine may have more for each token that it need not read. To read one again keeps all that
wait behind it waiting, and drives out of the cache what others would have found there."""
HORIZON: Final = 262_144.0
"""Tokens that an engine keeps of what this gateway sends it, as long as it has not shown otherwise."""
SHORTEST_HORIZON: Final = 16_384.0
LONGEST_HORIZON: Final = 4_194_304.0
"""At 256 tokens a block and 80 bytes for each, 1.3 MB of memory here for an endpoint."""
ACCURACY: Final = 0.70
"""Share of the tokens expected in caches that should be there: with more, too little is remembered here."""
HASTE: Final = 0.25
TELLING_TOKENS: Final = 4096
"""A shared beginning shorter than that is hardly ever forgotten, and so tells little."""
LUCK: Final = 0.1
"""To begin with. Where no engine says what it had none is expected."""
LUCK_RATE: Final = 0.01
EXPECTED_LUCK: Final = 0.07
"""So much is found unexpectedly where it is not worth a detour. A single gateway, or small caches, have no more."""
LUCK_WEIGHT: Final = 4.0

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
        return render_origin(self.host, self.port)


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
    """Blocks that this gateway sent last."""
    earlier: set[int] = field(default_factory=set)
    """Blocks that it sent before; those before these its engine has forgotten."""
    sent: float = 0.0
    """Tokens that were new to its engine since `recent` was begun."""
    horizon: float = HORIZON
    """How many of these it takes until it has forgotten what it read."""
    luck: float = LUCK
    """Share of a prompt that its engine had though nothing here said so: other gateways sent it."""
    tells: bool = False
    """Whether its engine ever said what it had in its cache: most say nothing where they had nothing."""
    reading: Reading = field(default_factory=Reading)
    salt: int = field(init=False)
    """Its place in the order that all gateways have in common."""

    def __post_init__(self) -> None:
        self.salt = int.from_bytes(blake2b(self.endpoint.uid.encode(), digest_size=8).digest(), "big")


_NO_WORK: Final = Work(0, 0)


class Choice:
    """What there is to know about the request that an endpoint is picked for."""

    __slots__ = ("adapter", "slots", "tried", "turn", "work")

    def __init__(
        self, slots: int, turn: int, tried: Collection[str] = (), adapter: str = "", work: Work = _NO_WORK
    ) -> None:
        self.slots = slots
        self.turn = turn
        self.tried = tried
        """Endpoints (by uid) that failed this request before."""
        self.adapter = adapter
        """The adapter that is asked for; empty for the model itself, which every endpoint has."""
        self.work = work


def parse_endpoint(pod: Manifest) -> Endpoint | None:
    """The endpoint that an engine pod is; None while it has no address or is nobody's."""
    metadata = pod["metadata"]
    status = pod.get("status") or {}
    labels = metadata.get("labels") or {}
    deployment = labels.get(names.LABEL_DEPLOYMENT)
    host = status.get("podIP")
    if not deployment or not host:
        return None
    true = [one.get("type") for one in status.get("conditions") or () if one.get("status") == "True"]
    return Endpoint(
        uid=metadata["uid"],
        pod=metadata["name"],
        key=Key(metadata["namespace"], deployment),
        host=host,
        port=_port(pod),
        # Requests hang in an engine that sleeps, while its readiness says that all is well.
        ready="Ready" in true and names.CONDITION_ASLEEP not in true and "deletionTimestamp" not in metadata,
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
    """Filter → score → pick: the endpoint with the least outstanding, or one that need not read all of the prompt.

    One that failed this very request is taken only where there is no other.
    """
    fit = _list_fit(candidates, choice.slots, now, choice.adapter)
    if choice.tried:
        fit = [candidate for candidate in fit if candidate.endpoint.uid not in choice.tried] or fit
    if len(fit) < 2:
        return fit[0] if fit else None
    if choice.work.blocks:
        return _pick_near(fit, choice.work, choice.slots // SLOTS_PER_SEQUENCE)
    least = min([candidate.outstanding for candidate in fit])
    idlest = [candidate for candidate in fit if candidate.outstanding == least]
    fewest = min([candidate.in_flight for candidate in idlest])
    equals = [candidate for candidate in idlest if candidate.in_flight == fewest]
    return equals[choice.turn % len(equals)]


def record_start(candidate: Candidate, work: Work) -> None:
    """A request is sent to an endpoint."""
    blocks = work.blocks
    work.known = 0
    if blocks:
        work.known = work.prompt_tokens * _count_known(candidate, blocks) // len(blocks)
        candidate.recent.update(blocks)
    work.pending = work.prompt_tokens - work.known
    work.writing = work.output_tokens
    candidate.sent += work.pending + work.writing
    if candidate.sent >= candidate.horizon / 2:
        candidate.earlier, candidate.recent, candidate.sent = candidate.recent, set(), 0.0
    candidate.in_flight += 1
    candidate.outstanding += work.pending + work.writing


def record_first_byte(candidate: Candidate, work: Work) -> None:
    """The engine answers, so it has read the prompt."""
    candidate.outstanding -= work.pending
    work.pending = 0


def record_finish(candidate: Candidate, work: Work, cached_tokens: int | None = None) -> None:
    """The try is over, however it ended; the engine had so much of the prompt, if it said anything of it."""
    candidate.in_flight -= 1
    candidate.outstanding -= work.pending + work.writing
    work.pending = work.writing = 0
    if cached_tokens:
        candidate.tells = True
    if candidate.tells and cached_tokens is not None and work.blocks:
        _learn(candidate, work, cached_tokens)


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


def _pick_near(fit: list[Candidate], work: Work, at_a_time: int) -> Candidate:
    """The endpoint with the least outstanding, less what the cache saves; and of those about as good, the same for all.

    The first block that no endpoint is known to have decides among these. It is where a conversation parts from others
    with the same system prompt, so its next turn comes to the same place from gateways that have not seen it before.
    """
    blocks = work.blocks
    first = blocks[0]
    second = blocks[1] if len(blocks) > 1 else None
    share = work.prompt_tokens / len(blocks)
    weight = CACHE_WEIGHT * share
    most = 0
    costs: list[float] = []
    for candidate in fit:
        recent, earlier = candidate.recent, candidate.earlier
        # Beyond what it runs at a time a request waits in the engine: no cache makes up for that.
        if (first not in recent and first not in earlier) or candidate.in_flight >= at_a_time:
            costs.append(candidate.outstanding)
            continue
        # Many have a first block in common and nothing else.
        count = _count_known(candidate, blocks) if second in recent or second in earlier else 1
        costs.append(candidate.outstanding - weight * count)
        most = max(most, count)
    least = min(costs)
    # A detour must not cost more than there is to be found at its end, or the slowest requests would pay for the rest.
    detour = LUCK_WEIGHT * share * (len(blocks) - most) if any(candidate.tells for candidate in fit) else 0.0
    near = [
        candidate
        for candidate, cost in zip(fit, costs, strict=True)
        if cost == least or cost - least <= detour * (candidate.luck - EXPECTED_LUCK)
    ]
    if len(near) == 1:
        return near[0]
    factor = 2 * blocks[min(most, len(blocks) - 1)] + 1
    return max(near, key=lambda candidate: candidate.salt * factor & _WORD)


def _count_known(candidate: Candidate, blocks: Sequence[int]) -> int:
    """Blocks at the beginning that an endpoint was sent. Whoever was sent one was sent all before it."""
    recent, earlier = candidate.recent, candidate.earlier
    low, high, step = 0, len(blocks) + 1, 1
    while high - low > 1:
        middle = min(low + step, (low + high) // 2)
        block = blocks[middle - 1]
        if block in recent or block in earlier:
            low, step = middle, 2 * step
        else:
            high = middle
    return low


def _learn(candidate: Candidate, work: Work, cached_tokens: int) -> None:
    """Take from what was found in a cache how long it keeps things, and how much of it other gateways put there."""
    unknown = work.prompt_tokens - work.known
    if unknown > 0:
        found = min(1.0, max(0, cached_tokens - work.known) / unknown)
        candidate.luck += LUCK_RATE * (found - candidate.luck)
    if work.known:
        right = min(cached_tokens, work.known) / work.known
        weight = HASTE * work.known / (work.known + TELLING_TOKENS)
        horizon = candidate.horizon * (1 + weight * (right - ACCURACY))
        candidate.horizon = min(LONGEST_HORIZON, max(SHORTEST_HORIZON, horizon))


def _port(pod: Manifest) -> int:
    for container in pod["spec"].get("containers", ()):
        for port in container.get("ports") or ():
            if port.get("name") == "http":
                number: int = port["containerPort"]
                return number
    return names.PORT_ENGINE
