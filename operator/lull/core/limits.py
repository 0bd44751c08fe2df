"""How much a key may still use: requests and tokens a minute, tokens a day.

Tokens are charged before a request goes on, by an estimate, and settled by what the engine counted when it is over.
Windows slide: whichever minute is looked at, no more than the limit was let in. To keep that with little memory,
charges are put together in slices; one counts for as long as the window and at most one slice longer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum, unique
from math import ceil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

    from lull.core.keys import ApiKey

MINUTE: Final = 60.0
DAY: Final = 86_400.0
MINUTE_SLICES: Final = 60
DAY_SLICES: Final = 96
"""A quarter of an hour each."""

_OF_REQUESTS: Final = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
_OF_TOKENS: Final = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
_SHORT: Final = tuple(f"{seconds}s" for seconds in range(62))

Header = tuple[str, str]


@unique
class Unit(StrEnum):
    """What a key has no more of."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    TOKENS_A_DAY = "tokens_per_day"


@dataclass(frozen=True, slots=True)
class Level:
    """One limit, and how much of it is used."""

    limit: int
    used: int
    reset_seconds: float
    """Until nothing of it is used, if nothing more is asked for."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a request may not go on."""

    unit: Unit
    limit: int
    used: int
    asked: int
    wait_seconds: float
    """Until there would be enough; nothing is promised."""
    headers: list[Header]

    @property
    def is_hopeless(self) -> bool:
        """It asks for more than the limit is, so that no wait helps."""
        return self.asked > self.limit


class Slice:
    """Charges that stop counting together."""

    __slots__ = ("amount", "closes_at", "until")

    def __init__(self, closes_at: float, until: float) -> None:
        self.amount = 0
        self.closes_at = closes_at
        self.until = until


class Window:
    """What was charged of one limit lately."""

    __slots__ = ("grain", "limit", "limit_text", "seconds", "slices", "total")

    def __init__(self, limit: int, *, seconds: float, slices: int) -> None:
        self.limit = limit
        self.limit_text = str(limit)
        self.seconds = seconds
        self.grain = seconds / slices
        self.slices: deque[Slice] = deque()
        """The oldest first; never more than the window has, and one."""
        self.total = 0

    def advance(self, now: float) -> int:
        """Forget what is too old; what counts."""
        slices = self.slices
        while slices and slices[0].until <= now:
            self.total -= slices.popleft().amount
        return self.total

    def add(self, amount: int, now: float) -> Slice:
        slices = self.slices
        if not slices or slices[-1].closes_at <= now:
            closes_at = now + self.grain
            slices.append(Slice(closes_at, closes_at + self.seconds))
        last = slices[-1]
        last.amount += amount
        self.total += amount
        return last

    def correct(self, charged: Slice, change: int, now: float) -> None:
        """A charge was not what it should have been. One that counts no more gives nothing back."""
        self.advance(now)
        if charged.until > now:
            charged.amount += change
            self.total += change
        elif change > 0:
            self.add(change, now)

    def wait_seconds(self, amount: int, now: float) -> float:
        """Until so much fits in, or until all is free where it never does."""
        excess = self.total + amount - self.limit
        for one in self.slices:
            excess -= one.amount
            if excess <= 0:
                return one.until - now
        return self.reset_seconds(now)

    def reset_seconds(self, now: float) -> float:
        return self.slices[-1].until - now if self.slices else 0.0


class Account:
    """One key's windows."""

    __slots__ = ("day", "key", "requests", "tokens")

    def __init__(self, key: ApiKey) -> None:
        self.key = key
        self.requests: Window | None = None
        self.tokens: Window | None = None
        self.day: Window | None = None
        self.renew(key)

    def renew(self, key: ApiKey) -> None:
        """The key's limits were changed; what was used counts on."""
        self.key = key
        self.requests = _resize(self.requests, key.requests_per_minute, seconds=MINUTE, slices=MINUTE_SLICES)
        self.tokens = _resize(self.tokens, key.tokens_per_minute, seconds=MINUTE, slices=MINUTE_SLICES)
        self.day = _resize(self.day, key.tokens_per_day, seconds=DAY, slices=DAY_SLICES)


class Grant:
    """A request that may go on, and what was charged for it."""

    __slots__ = ("account", "day", "shared", "tokens", "tokens_charged")

    def __init__(self, account: Account, tokens_charged: int, tokens: Slice | None, day: Slice | None) -> None:
        self.account = account
        self.tokens_charged = tokens_charged
        self.tokens = tokens
        self.day = day
        self.shared: object = None
        """Where it is charged in counts that gateways share."""


class Ledger:
    """What each key has used at this gateway."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def charge(self, key: ApiKey, *, tokens: int, now: float) -> Grant | Shortage:
        """Let one request with so many tokens go on, unless that is more than a limit leaves."""
        account = self._find(key)
        day, minute, requests = account.day, account.tokens, account.requests
        # The limit that keeps it waiting for longest comes first.
        if day is not None and day.advance(now) + tokens > day.limit:
            return _short(account, day, Unit.TOKENS_A_DAY, tokens, now)
        if minute is not None and minute.advance(now) + tokens > minute.limit:
            return _short(account, minute, Unit.TOKENS, tokens, now)
        if requests is not None and requests.advance(now) >= requests.limit:
            return _short(account, requests, Unit.REQUESTS, 1, now)
        return self._add(account, tokens, now)

    def record(self, key: ApiKey, *, tokens: int, now: float) -> Grant:
        """Charge what somebody else has let go on."""
        return self._add(self._find(key), tokens, now)

    def settle(self, grant: Grant, *, tokens: int, now: float) -> int:
        """Charge what was used instead of what was estimated, once for each grant; by how much that differs."""
        change = tokens - grant.tokens_charged
        if change:
            if grant.tokens is not None and grant.account.tokens is not None:
                grant.account.tokens.correct(grant.tokens, change, now)
            if grant.day is not None and grant.account.day is not None:
                grant.account.day.correct(grant.day, change, now)
        return change

    def keep(self, ids: Container[str]) -> None:
        """Forget keys that are gone."""
        self._accounts = {id_: account for id_, account in self._accounts.items() if id_ in ids}

    def headers(self, key: ApiKey, *, now: float) -> list[Header]:
        """What a client is told about its limits."""
        return _headers(self._find(key), now)

    def _find(self, key: ApiKey) -> Account:
        account = self._accounts.get(key.id)
        if account is None:
            account = self._accounts[key.id] = Account(key)
        elif account.key is not key:
            account.renew(key)
        return account

    def _add(self, account: Account, tokens: int, now: float) -> Grant:
        if account.requests is not None:
            account.requests.add(1, now)
        return Grant(
            account,
            tokens,
            None if account.tokens is None else account.tokens.add(tokens, now),
            None if account.day is None else account.day.add(tokens, now),
        )


def render_headers(requests: Level | None, tokens: Level | None) -> list[Header]:
    """`x-ratelimit-*`, as OpenAI's clients read them."""
    headers: list[Header] = []
    for names, level in ((_OF_REQUESTS, requests), (_OF_TOKENS, tokens)):
        if level is not None:
            _tell(headers, names, str(level.limit), level.limit - level.used, level.reset_seconds)
    return headers


def render_reset(seconds: float) -> str:
    """As OpenAI writes it: `59s`, `6m0s`."""
    whole = ceil(seconds)
    if whole < len(_SHORT):
        return _SHORT[max(whole, 0)]
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _headers(account: Account, now: float) -> list[Header]:
    headers: list[Header] = []
    requests = account.requests
    if requests is not None:
        left = requests.limit - requests.advance(now)
        _tell(headers, _OF_REQUESTS, requests.limit_text, left, requests.reset_seconds(now))
    tokens = account.tokens if account.tokens is not None else account.day
    if tokens is not None:
        left = tokens.limit - tokens.advance(now)
        _tell(headers, _OF_TOKENS, tokens.limit_text, left, tokens.reset_seconds(now))
    return headers


def _tell(headers: list[Header], names: tuple[str, str, str], limit: str, left: int, reset: float) -> None:
    headers.append((names[0], limit))
    headers.append((names[1], str(left) if left > 0 else "0"))
    headers.append((names[2], render_reset(reset)))


def _short(account: Account, window: Window, unit: Unit, asked: int, now: float) -> Shortage:
    wait = window.wait_seconds(asked, now)
    return Shortage(unit, window.limit, window.total, asked, wait, _headers(account, now))


def _resize(window: Window | None, limit: int | None, *, seconds: float, slices: int) -> Window | None:
    if limit is None:
        return None
    if window is None:
        return Window(limit, seconds=seconds, slices=slices)
    window.limit = limit
    window.limit_text = str(limit)
    return window
