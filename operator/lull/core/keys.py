"""Keys of clients: who asks, and what they may use.

A key reads `llmk_<id>_<secret>`. The id finds the entry, and a digest of the whole key decides: an id that is unknown
takes the same way as a secret that is wrong.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, Protocol

import yaml
from pydantic import ValidationError

from lull.api.keys import KEY_ID_PATTERN, KeyEntry
from lull.api.llmdeployment import render_validation_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX: Final = "llmk_"
SECRET_LENGTH: Final = 22
"""Of 62 characters each: 131 bits."""
ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_LONGEST: Final = 256
_MOST_FOUND: Final = 4096
_SCHEME: Final = b"bearer "
_KEY_ID: Final = re.compile(KEY_ID_PATTERN)


class InvalidKey(ValueError):  # noqa: N818  what is read, not a fault of ours
    """An entry that is no key, in words for whoever wrote it."""


class Dice(Protocol):
    """Where a key's secret comes from."""

    def __call__(self, choices: str, /) -> str: ...


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key allows; None is without a limit."""

    id: str
    digest: bytes = field(repr=False)
    models: frozenset[str] = frozenset()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    priority: int = 0
    expires_at: float = math.inf
    note: str = ""

    @property
    def is_limited(self) -> bool:
        return not (self.requests_per_minute is self.tokens_per_minute is self.tokens_per_day is None)

    def allows(self, model: str) -> bool:
        """Whether it may use what goes by this name, a model or an adapter."""
        return not self.models or model in self.models

    def filter(self, names: Iterable[str]) -> list[str]:
        """Those of these names that it may use."""
        return [name for name in names if self.allows(name)]


_NOBODY: Final = ApiKey("", bytes(32))
"""Compared with where no entry is found; no key has this digest."""


class Keyring:
    """All keys, as last read."""

    __slots__ = ("_found", "_keys", "is_read")

    def __init__(self, keys: Iterable[ApiKey] = (), *, is_read: bool = True) -> None:
        """`is_read` is False for the keyring of a gateway that has yet to learn which keys there are."""
        self._keys = {key.id.encode(): key for key in keys}
        self._found: dict[bytes, ApiKey] = {}
        """By what was sent: a client sends the same again with each request."""
        self.is_read = is_read

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(key.id for key in self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, authorization: bytes | None, *, now: float) -> ApiKey | None:
        """The key that a header's value holds, with or without `Bearer`, unless it is unknown or has expired."""
        if authorization is None or len(authorization) > _LONGEST:
            return None
        found = self._found.get(authorization)
        if found is not None:
            # No time is told by this: what is compared byte by byte has the same hash already, by a secret function.
            return found if now < found.expires_at else None
        token = authorization[7:].strip() if authorization[:7].lower() == _SCHEME else authorization
        key = self._keys.get(token[5:].rpartition(b"_")[0], _NOBODY)
        is_right = compare_digest(sha256(token).digest(), key.digest)
        if not is_right:
            return None
        if len(self._found) >= _MOST_FOUND:
            self._found.clear()
        self._found[authorization] = key
        return key if now < key.expires_at else None


def build_keyring(entries: Mapping[str, object]) -> tuple[Keyring, dict[str, str]]:
    """The keys that entries by id hold, and what is wrong with the others."""
    keys: list[ApiKey] = []
    wrong: dict[str, str] = {}
    for id_, content in entries.items():
        try:
            keys.append(parse_key(id_, content))
        except InvalidKey as error:
            wrong[id_] = str(error)
    return Keyring(keys), wrong


def parse_key(id_: str, content: object) -> ApiKey:
    """One entry: an object, or the JSON or YAML of one."""
    entry = parse_entry(id_, content)
    return ApiKey(
        id_,
        bytes.fromhex(entry.sha256),
        models=frozenset(entry.models),
        requests_per_minute=entry.requests_per_minute,
        tokens_per_minute=entry.tokens_per_minute,
        tokens_per_day=entry.tokens_per_day,
        priority=entry.priority,
        expires_at=math.inf if entry.expires is None else entry.expires.timestamp(),
        note=entry.note,
    )


def parse_entry(id_: str, content: object) -> KeyEntry:
    """One entry as it is stored."""
    if not is_key_id(id_):
        raise InvalidKey(f"{id_[:64]!r} is no id: lower-case letters, digits, hyphens and dots, at most 63")
    if isinstance(content, str | bytes):
        content = _load(id_, content)
    try:
        return KeyEntry.model_validate(content)
    except ValidationError as error:
        raise InvalidKey(render_validation_error(error, root=id_)) from None


def render_entry(entry: KeyEntry) -> str:
    """One entry as JSON, without what says nothing."""
    return entry.model_dump_json(exclude_defaults=True)


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def make_token(id_: str, dice: Dice) -> str:
    """A key that nobody else has."""
    return f"{PREFIX}{id_}_" + "".join(dice(ALPHABET) for _ in range(SECRET_LENGTH))


def digest_of(token: str) -> str:
    """What is stored of a key."""
    return sha256(token.encode()).hexdigest()


def _load(id_: str, text: str | bytes) -> object:
    try:
        # Nearly all are JSON, which is read a hundred times as fast.
        return json.loads(text) if text[:1] in {"{", b"{"} else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        # In words of our own: a parser's would quote what is in the Secret.
        raise InvalidKey(f"{id_}: neither JSON nor YAML") from None
