"""Limits that several gateways share: one count in Valkey, looked at and added to by one script.

Everything that is asked at the same time goes in one batch. A Valkey that does not answer within `DEADLINE` is left
alone until it does: nobody waits for it meanwhile, and each gateway counts for itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from lull.core.limits import DAY, DAY_SLICES, MINUTE, MINUTE_SLICES, Header, Level, Shortage, Unit, render_headers
from lull.doors.retrying import backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lull.core.keys import ApiKey

DEADLINE: Final = 0.1
"""For a batch of charges, in seconds."""
CONNECT_DEADLINE: Final = 1.0
RECONNECT_MOST: Final = 2.0
"""Longest pause between tries to reach a Valkey that is away."""
BATCH: Final = 64
"""Commands of a kind that go together: some milliseconds of Valkey's time."""
SETTLED_MOST: Final = 10_000
"""Corrections kept for a Valkey that is away; more, and the oldest are given up."""

# A window is a hash: slices by their number, their sum, and the first and last of them. Slices lie on the server's
# clock, which is one for all gateways. Each call drops the slices that count no more, at most as many as there are.
_SHAPES: Final = ((MINUTE, MINUTE_SLICES), (MINUTE, MINUTE_SLICES), (DAY, DAY_SLICES))
_WINDOWS: Final = (
    f"local shapes = {{{', '.join(f'{{{seconds:.0f}, {slices}}}' for seconds, slices in _SHAPES)}}}"
    """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local function keep(window)
  redis.call('HSET', window.key, 'first', window.first, 'last', window.last, 'total', window.total)
  redis.call('EXPIRE', window.key, math.ceil(window.seconds + 2 * window.grain))
end

local function look(which, key)
  local seconds, slices = unpack(shapes[which])
  local grain = seconds / slices
  local first, last, total = unpack(redis.call('HMGET', key, 'first', 'last', 'total'))
  local window = {key = key, seconds = seconds, slices = slices, grain = grain}
  window.index = math.max(math.floor(now / grain), tonumber(first or 0))
  local oldest = window.index - slices
  window.first, window.last, window.total = tonumber(first), tonumber(last), tonumber(total)
  if not first or oldest - first > slices + 1 then
    redis.call('DEL', key)
    window.first, window.last, window.total = window.index, window.index, 0
    keep(window)
  elseif window.first < oldest then
    for slice = window.first, oldest - 1 do
      window.total = window.total - (redis.call('HGET', key, slice) or 0)
      redis.call('HDEL', key, slice)
    end
    window.first = oldest
    keep(window)
  end
  return window
end

local function until_gone(window, slice)
  return math.max(0, math.ceil(((slice + 1 + window.slices) * window.grain - now) * 1000))
end

local function add(window, slice, amount)
  redis.call('HINCRBY', window.key, slice, amount)
  redis.call('HINCRBY', window.key, 'total', amount)
  window.total = window.total + amount
  if slice > window.last then
    window.last = slice
    keep(window)
  end
end
"""
)

_CHARGE: Final = (
    _WINDOWS
    + """
local asked = {1, tonumber(ARGV[1]), tonumber(ARGV[1])}
local windows = {}
local short, wait = 0, 0
for which = 1, 3 do
  local limit = tonumber(ARGV[which + 1])
  if limit > 0 then
    local window = look(which, KEYS[which])
    windows[which] = window
    local excess = window.total + asked[which] - limit
    if excess > 0 then
      short, wait = which, until_gone(window, window.last)
      for slice = window.first, window.last do
        excess = excess - (redis.call('HGET', window.key, slice) or 0)
        if excess <= 0 then
          wait = until_gone(window, slice)
          break
        end
      end
    end
  end
end
local answer = {short, wait}
for which = 1, 3 do
  local window = windows[which]
  if window then
    if short == 0 then
      add(window, window.index, asked[which])
    end
    local reset = window.total > 0 and until_gone(window, window.last) or 0
    for _, value in ipairs({window.index, window.total, reset}) do
      answer[#answer + 1] = value
    end
  else
    for _ = 1, 3 do
      answer[#answer + 1] = -1
    end
  end
end
return answer
"""
)

_SETTLE: Final = (
    _WINDOWS
    + """
for which = 2, 3 do
  local slice, change = tonumber(ARGV[which]), tonumber(ARGV[1])
  if slice >= 0 then
    local window = look(which, KEYS[which - 1])
    if slice >= window.first then
      add(window, slice, math.max(change, -(redis.call('HGET', window.key, slice) or 0)))
    elseif change > 0 then
      add(window, window.index, change)
    end
  end
end
"""
)

_UNITS: Final = (None, Unit.REQUESTS, Unit.TOKENS, Unit.TOKENS_A_DAY)


class Unavailable(Exception):  # noqa: N818  reads as what happened
    """Nobody answers: count alone."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was charged, and where it is found again."""

    tokens_slice: int
    day_slice: int
    headers: list[Header]


@dataclass(frozen=True, slots=True)
class _Charge:
    key: ApiKey
    tokens: int
    answer: asyncio.Future[Taken | Shortage]


@dataclass(frozen=True, slots=True)
class _Correction:
    id: str
    taken: Taken
    change: int


class Tally:
    """One gateway's way to the counts that it shares."""

    def __init__(self, url: str, *, password: str = "", prefix: str = "", deadline: float = DEADLINE) -> None:
        """Gateways with the same prefix share. A request waits for its answer until the deadline, in seconds."""
        self._deadline = deadline
        # Here, as most gateways have no Valkey, and its client takes as long to import as half of the gateway.
        from valkey.asyncio import Valkey  # noqa: PLC0415

        self._client = Valkey.from_url(
            url,
            password=password or None,
            socket_connect_timeout=CONNECT_DEADLINE,
            # Deadlines are ours: the library's goes through asyncio.wait_for, which loses cancellations before 3.12.
            socket_timeout=None,
            max_connections=1,
        )
        self._prefix = prefix
        self._charges: deque[_Charge] = deque()
        self._corrections: deque[_Correction] = deque(maxlen=SETTLED_MOST)
        self._rung = asyncio.Event()
        self._charge_sha = ""
        self._settle_sha = ""
        self._log = structlog.get_logger("lull.gateway")
        self.is_available = False
        self._told: bool | None = None

    async def charge(self, key: ApiKey, *, tokens: int) -> Taken | Shortage:
        """As `Ledger.charge`, for all gateways together."""
        if not self.is_available:
            raise Unavailable
        charge = _Charge(key, tokens, asyncio.get_running_loop().create_future())
        self._charges.append(charge)
        self._rung.set()
        try:
            return await charge.answer
        except asyncio.CancelledError:
            self._take_back(charge)
            raise

    def settle(self, key: ApiKey, taken: Taken, *, change: int) -> None:
        """As `Ledger.settle`; told a moment later."""
        if change:
            self._corrections.append(_Correction(key.id, taken, change))
            self._rung.set()

    async def run(self) -> None:
        """Keep in touch, for ever."""
        from valkey.exceptions import ValkeyError  # noqa: PLC0415  as above

        failures = 0
        try:
            while True:
                try:
                    async with asyncio.timeout(CONNECT_DEADLINE):
                        self._charge_sha = await self._client.script_load(_CHARGE)
                        self._settle_sha = await self._client.script_load(_SETTLE)
                    failures = 0
                    self._tell(is_available=True)
                    while True:
                        await self._rung.wait()
                        self._rung.clear()
                        while self._charges or self._corrections:
                            await self._exchange()
                except (ValkeyError, OSError, TimeoutError) as error:
                    failures += 1
                    self._tell(is_available=False, error=repr(error))
                await asyncio.sleep(backoff(failures, most=RECONNECT_MOST))
        finally:
            self._give_up(list(self._charges))
            await self._client.aclose()

    async def _exchange(self) -> None:
        """One batch there and back."""
        charges = [self._charges.popleft() for _ in range(min(BATCH, len(self._charges)))]
        corrections = [self._corrections.popleft() for _ in range(min(BATCH, len(self._corrections)))]
        batch = self._client.pipeline(transaction=False)
        for one in corrections:
            slices = (one.taken.tokens_slice, one.taken.day_slice)
            batch.evalsha(self._settle_sha, 2, *self._names(one.id)[1:], one.change, *slices)
        for charge in charges:
            key = charge.key
            limits = (key.requests_per_minute, key.tokens_per_minute, key.tokens_per_day)
            batch.evalsha(self._charge_sha, 3, *self._names(key.id), charge.tokens, *(one or 0 for one in limits))
        try:
            async with asyncio.timeout(self._deadline):
                answers = await batch.execute()
        except BaseException:
            self._give_up(charges)
            raise
        for charge, answer in zip(charges, answers[len(corrections) :], strict=True):
            read = _read(charge, answer)
            if not charge.answer.done():
                charge.answer.set_result(read)
            elif isinstance(read, Taken):
                # Its client left while this was on its way.
                self.settle(charge.key, read, change=-charge.tokens)

    def _take_back(self, charge: _Charge) -> None:
        """Nobody heard the answer, which had come already; one that comes later finds nobody waiting."""
        answer = charge.answer
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            taken = answer.result()
            if isinstance(taken, Taken):
                self.settle(charge.key, taken, change=-charge.tokens)

    def _names(self, id_: str) -> tuple[str, str, str]:
        # The braces keep one key's windows on one node of a cluster.
        base = f"lull:{{{self._prefix}/{id_}}}"
        return f"{base}:requests", f"{base}:tokens", f"{base}:day"

    def _tell(self, *, is_available: bool, error: str = "") -> None:
        self.is_available = is_available
        if not is_available:
            self._give_up(list(self._charges))
            self._charges.clear()
        if self._told is is_available:
            return
        self._told = is_available
        if is_available:
            self._log.info("limits shared")
        else:
            self._log.warning("limits counted alone", error=error)

    def _give_up(self, charges: Sequence[_Charge]) -> None:
        for charge in charges:
            if not charge.answer.done():
                charge.answer.set_exception(Unavailable())


def _read(charge: _Charge, answer: list[int]) -> Taken | Shortage:
    short, wait, *values = answer
    windows = [values[at : at + 3] for at in (0, 3, 6)]
    key = charge.key
    limits = (key.requests_per_minute, key.tokens_per_minute, key.tokens_per_day)
    requests, minute, day = (
        None if limit is None else Level(limit, used, reset / 1000)
        for limit, (_, used, reset) in zip(limits, windows, strict=True)
    )
    headers = render_headers(requests, minute if minute is not None else day)
    unit = _UNITS[short]
    if unit is None:
        return Taken(windows[1][0], windows[2][0], headers)
    level = (requests, minute, day)[short - 1]
    assert level is not None
    asked = 1 if unit is Unit.REQUESTS else charge.tokens
    return Shortage(unit, level.limit, level.used, asked, wait / 1000, headers)
