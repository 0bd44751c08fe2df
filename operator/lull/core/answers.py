"""The response cache: answers that are given again to the same request, byte for byte, of the same key.

Kept by revision: what answers depend on besides the request is what pods are made of, so with another revision, or
another object of the same name, all that was kept of a model goes. An adapter's content may change without a revision,
so requests for adapters are left alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from lull.api.quantities import parse_duration, parse_quantity
from lull.api.requests import CacheWhen
from lull.core.manifests import find_revision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lull.api.llmdeployment import Key, LLMDeployment

ALL_BYTES: Final = 256 * 1024 * 1024
"""For the answers of all models at one gateway."""
MAX_RECORDINGS: Final = 256
"""Answers that are written down at a time, each of them up to a bound of its own; others are not kept."""
ENTRY_BYTES: Final = 512
"""What an answer takes besides its body."""

_READ_ONLY: Final = ("/embeddings", "/rerank", "/score", "/classify", "/pooling", "/tokenize", "/detokenize")
_WRITING: Final = ("/completions", "/messages")
"""Not /v1/responses: what was answered there can be referred to by its id."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is kept of one model, for how long, and as long as what stays the same."""

    ttl: float
    max_bytes: int
    when: CacheWhen
    uid: str
    revisions: frozenset[str]
    """Of the pods that the spec asks for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer with status 200."""

    body: bytes
    is_event_stream: bool
    until: float


@dataclass(slots=True)
class _Shelf:
    """The answers of one model, the one used longest ago first."""

    deployment: LLMDeployment
    terms: Terms | None
    answers: OrderedDict[bytes, Answer]
    size: int = 0


class Answers:
    """Answers of all models at one gateway process."""

    def __init__(self, *, max_bytes: int = ALL_BYTES) -> None:
        self._max_bytes = max_bytes
        self._shelves: dict[Key, _Shelf] = {}
        self._order: OrderedDict[tuple[Key, bytes], None] = OrderedDict()
        """All of them, the one used longest ago first."""
        self.size = 0
        self.recordings = 0
        """Answers that are being written down; whoever does it counts them."""

    def __len__(self) -> int:
        return len(self._order)

    def is_keeping(self, key: Key) -> bool:
        """Whether something is or was to be kept of a model."""
        return key in self._shelves

    def terms(self, deployment: LLMDeployment) -> Terms | None:
        """What is kept of a model as its spec is now; None where nothing is. What is kept of an earlier one goes."""
        shelf = self._shelves.get(deployment.key)
        if shelf is not None and shelf.deployment is deployment:
            return shelf.terms
        terms = build_terms(deployment)
        if shelf is None:
            if terms is not None:
                self._shelves[deployment.key] = _Shelf(deployment, terms, OrderedDict())
        elif terms is None:
            self.purge(deployment.key)
        else:
            before, shelf.deployment, shelf.terms = shelf.terms, deployment, terms
            if before is None or (before.uid, before.revisions) != (terms.uid, terms.revisions):
                self._clear(deployment.key, shelf)
            self._shrink(deployment.key, shelf)
        return terms

    def find(self, key: Key, slot: bytes, *, now: float) -> Answer | None:
        """The answer to give again, if there is one."""
        shelf = self._shelves.get(key)
        answer = None if shelf is None else shelf.answers.get(slot)
        if shelf is None or answer is None:
            return None
        if now >= answer.until:
            self._drop(key, shelf, slot)
            return None
        shelf.answers.move_to_end(slot)
        self._order.move_to_end((key, slot))
        return answer

    def keep(self, deployment: LLMDeployment, slot: bytes, answer: Answer, *, revision: str) -> None:
        """Keep an answer that a pod of this revision gave, unless pods of others are asked for by now.

        `revision` is empty for an engine that has none, because nobody rolls it out.
        """
        terms = self.terms(deployment)
        shelf = self._shelves.get(deployment.key)
        if terms is None or shelf is None or (revision and revision not in terms.revisions):
            return
        size = _weigh(answer)
        if size > min(terms.max_bytes, self._max_bytes):
            return
        if slot in shelf.answers:
            self._drop(deployment.key, shelf, slot)
        shelf.answers[slot] = answer
        self._order[deployment.key, slot] = None
        shelf.size += size
        self.size += size
        self._shrink(deployment.key, shelf)
        while self.size > self._max_bytes:
            key, oldest = next(iter(self._order))
            self._drop(key, self._shelves[key], oldest)

    def purge(self, key: Key) -> None:
        """Nothing of a model is to be given again."""
        shelf = self._shelves.pop(key, None)
        if shelf is not None:
            self._clear(key, shelf)

    def _shrink(self, key: Key, shelf: _Shelf) -> None:
        while shelf.terms is not None and shelf.size > shelf.terms.max_bytes:
            self._drop(key, shelf, next(iter(shelf.answers)))

    def _clear(self, key: Key, shelf: _Shelf) -> None:
        for slot in tuple(shelf.answers):
            self._drop(key, shelf, slot)

    def _drop(self, key: Key, shelf: _Shelf, slot: bytes) -> None:
        size = _weigh(shelf.answers.pop(slot))
        del self._order[key, slot]
        shelf.size -= size
        self.size -= size


def build_terms(deployment: LLMDeployment) -> Terms | None:
    cache = deployment.spec.requests.cache
    if cache is None:
        return None
    return Terms(
        ttl=parse_duration(cache.ttl),
        max_bytes=int(parse_quantity(cache.max_bytes)),
        when=cache.when,
        uid=deployment.uid,
        revisions=frozenset(find_revision(deployment, pool) for pool in deployment.spec.placement.pools),
    )


def find_slot(path: str, body: bytes, *, tenant: str) -> bytes:
    """What an answer is kept by. Two bodies that say the same in other bytes are two requests."""
    digest = blake2b(tenant.encode(), digest_size=24)
    digest.update(b"\0" + path.encode() + b"\0")
    digest.update(body)
    return digest.digest()


def may_keep(terms: Terms, path: str, content: Mapping[str, Any], *, wish: str) -> bool:
    """Whether a request is one whose answer may be given again. `wish` is the header's value, or empty."""
    if wish == "skip" or not path.endswith((*_READ_ONLY, *_WRITING)):
        return False
    if wish == "use":
        return True
    return terms.when is CacheWhen.DETERMINISTIC and (path.endswith(_READ_ONLY) or _is_greedy(content))


def _is_greedy(content: Mapping[str, Any]) -> bool:
    """The most likely token each time: of several choices each would be the same, so there is one."""
    temperature = content.get("temperature")
    return (
        isinstance(temperature, int | float)
        and not isinstance(temperature, bool)
        and temperature == 0
        and all(content.get(name) in {None, 1} for name in ("n", "best_of"))
    )


def _weigh(answer: Answer) -> int:
    return len(answer.body) + ENTRY_BYTES
