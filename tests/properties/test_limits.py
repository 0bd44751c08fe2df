"""Whatever is asked for and whenever: in no window does a key get more than its limit."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lull.core.keys import ApiKey
from lull.core.limits import DAY, DAY_SLICES, MINUTE, MINUTE_SLICES, Grant, Ledger

KEY = ApiKey("a", b"", requests_per_minute=7, tokens_per_minute=100, tokens_per_day=400)


@dataclass(frozen=True)
class Ask:
    pause: float
    tokens: int
    used: int
    """More than was estimated, or less."""
    lasts: float


# In sixty-fourths of a second, so that adding them up in another order comes to the same.
PAUSES = st.one_of(st.integers(0, 64), st.integers(0, 64 * 90), st.integers(0, 64 * 30_000)).map(lambda n: n / 64)
ASKS = st.lists(st.builds(Ask, PAUSES, st.integers(0, 120), st.integers(0, 150), PAUSES), max_size=80)


@dataclass(frozen=True)
class Passed:
    at: float
    estimated: int
    used: int


def run(asks: list[Ask], *, start: float = 0.0, over: bool = True) -> tuple[list[Passed], list[str]]:
    """What was let through, and everything that was said; requests end in their own time."""
    ledger, now = Ledger(), start
    passed: list[Passed] = []
    said: list[str] = []
    ends: list[tuple[float, Grant, int]] = []
    for ask in asks:
        now += ask.pause
        for end in sorted((end for end in ends if end[0] <= now), key=lambda end: end[0]):
            ends.remove(end)
            said.append(f"settled {ledger.settle(end[1], tokens=end[2], now=end[0])}")
        answer = ledger.charge(KEY, tokens=ask.tokens, now=now)
        if isinstance(answer, Grant):
            used = ask.used if over else min(ask.used, ask.tokens)
            passed.append(Passed(now, ask.tokens, used))
            ends.append((now + ask.lasts, answer, used))
            said.append(f"passed {ledger.headers(KEY, now=now)}")
        else:
            said.append(f"{answer.unit} {answer.used} {answer.wait_seconds} {answer.headers}")
    return passed, said


@given(ASKS)
def test_no_window_holds_more_than_the_limit(asks: list[Ask]) -> None:
    passed, _ = run(asks, over=False)

    for one in passed:
        minute = [other for other in passed if one.at - MINUTE < other.at <= one.at]
        day = [other for other in passed if one.at - DAY < other.at <= one.at]
        assert len(minute) <= 7
        assert sum(other.used for other in minute) <= 100
        assert sum(other.used for other in day) <= 400


@given(ASKS)
def test_nobody_is_refused_what_a_slightly_longer_window_has_room_for(asks: list[Ask]) -> None:
    """All estimates kept, a slice more than the window: then there is room, whatever else happened."""
    ledger, now = Ledger(), 0.0
    passed: list[tuple[float, int]] = []
    for ask in asks:
        now += ask.pause
        minute = [tokens for at, tokens in passed if at > now - MINUTE - MINUTE / MINUTE_SLICES]
        day = [tokens for at, tokens in passed if at > now - DAY - DAY / DAY_SLICES]
        has_room = len(minute) < 7 and sum(minute) + ask.tokens <= 100 and sum(day) + ask.tokens <= 400
        answer = ledger.charge(KEY, tokens=ask.tokens, now=now)
        if isinstance(answer, Grant):
            passed.append((now, ask.tokens))
        else:
            assert not has_room


@given(ASKS)
def test_nothing_is_ever_owed_to_a_key(asks: list[Ask]) -> None:
    """Settling gives back what was set aside and no more."""
    ledger, now = Ledger(), 0.0
    grants: list[tuple[Grant, int]] = []
    for ask in asks:
        now += ask.pause
        answer = ledger.charge(KEY, tokens=ask.tokens, now=now)
        if isinstance(answer, Grant):
            grants.append((answer, ask.used))
        if len(grants) > 3:
            one, used = grants.pop(0)
            ledger.settle(one, tokens=used, now=now)
        for one, _ in grants:
            assert one.account.tokens is not None
            assert one.account.day is not None
            for window in (one.account.tokens, one.account.day):
                window.advance(now)
                assert window.total == sum(each.amount for each in window.slices)
                assert all(each.amount >= 0 for each in window.slices)


@given(ASKS, st.integers(0, 10**6))
def test_reads_no_clock_of_its_own(asks: list[Ask], shift: int) -> None:
    assert run(asks)[1] == run(asks, start=float(shift))[1]


@given(ASKS)
def test_after_the_time_that_it_says_there_is_room(asks: list[Ask]) -> None:
    ledger, now = Ledger(), 0.0
    for ask in asks:
        now += ask.pause
        answer = ledger.charge(KEY, tokens=ask.tokens, now=now)
        while not isinstance(answer, Grant) and not answer.is_hopeless:
            assert answer.wait_seconds > 0
            now += answer.wait_seconds
            answer = ledger.charge(KEY, tokens=ask.tokens, now=now)
