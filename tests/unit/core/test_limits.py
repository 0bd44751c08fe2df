"""What a client is told, and what is kept."""

from __future__ import annotations

import pytest

from lull.core.keys import ApiKey
from lull.core.limits import DAY, Grant, Ledger, Level, Shortage, Unit, render_headers, render_reset

NOW = 1000.0


def key(id_: str = "team-a", **limits: int) -> ApiKey:
    return ApiKey(id_, b"", **limits)  # type: ignore[arg-type]


def grant(ledger: Ledger, of: ApiKey, *, tokens: int = 0, now: float = NOW) -> Grant:
    granted = ledger.charge(of, tokens=tokens, now=now)
    assert isinstance(granted, Grant)
    return granted


def refuse(ledger: Ledger, of: ApiKey, *, tokens: int = 0, now: float = NOW) -> Shortage:
    refused = ledger.charge(of, tokens=tokens, now=now)
    assert isinstance(refused, Shortage)
    return refused


def test_lets_as_many_requests_through_as_the_limit_says() -> None:
    ledger, some = Ledger(), key(requests_per_minute=2)
    grant(ledger, some)
    grant(ledger, some, now=NOW + 10)

    shortage = refuse(ledger, some, now=NOW + 20)

    assert (shortage.unit, shortage.limit, shortage.used, shortage.asked) == (Unit.REQUESTS, 2, 2, 1)
    assert shortage.wait_seconds == pytest.approx(41)
    assert not shortage.is_hopeless
    grant(ledger, some, now=NOW + 20 + shortage.wait_seconds)


def test_a_request_that_was_refused_costs_nothing() -> None:
    ledger, some = Ledger(), key(requests_per_minute=1, tokens_per_minute=10, tokens_per_day=20)
    refuse(ledger, some, tokens=11)

    headers = dict(ledger.headers(some, now=NOW))

    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-remaining-tokens"] == "10"
    assert headers["x-ratelimit-reset-tokens"] == "0s"


def test_a_request_larger_than_the_limit_has_no_hope() -> None:
    assert refuse(Ledger(), key(tokens_per_minute=10), tokens=11).is_hopeless


def test_the_day_comes_before_the_minute() -> None:
    ledger, some = Ledger(), key(tokens_per_minute=10, tokens_per_day=10)
    grant(ledger, some, tokens=10)

    shortage = refuse(ledger, some, tokens=1, now=NOW + 1)

    assert shortage.unit is Unit.TOKENS_A_DAY
    assert DAY - 1 <= shortage.wait_seconds <= DAY + 900


def test_waits_no_longer_than_until_enough_is_free() -> None:
    ledger, some = Ledger(), key(tokens_per_minute=100)
    grant(ledger, some, tokens=30)
    grant(ledger, some, tokens=70, now=NOW + 30)

    assert refuse(ledger, some, tokens=30, now=NOW + 40).wait_seconds == pytest.approx(21)
    assert refuse(ledger, some, tokens=31, now=NOW + 40).wait_seconds == pytest.approx(51)


def test_what_was_not_used_is_given_back() -> None:
    ledger, some = Ledger(), key(tokens_per_minute=100)
    first = grant(ledger, some, tokens=90)
    refuse(ledger, some, tokens=20, now=NOW + 1)

    assert ledger.settle(first, tokens=10, now=NOW + 2) == -80

    grant(ledger, some, tokens=90, now=NOW + 3)
    refuse(ledger, some, tokens=1, now=NOW + 3)


def test_what_was_used_beyond_the_estimate_is_charged_too() -> None:
    ledger, some = Ledger(), key(tokens_per_minute=100)
    first = grant(ledger, some, tokens=10)

    assert ledger.settle(first, tokens=150, now=NOW + 1) == 140

    shortage = refuse(ledger, some, tokens=1, now=NOW + 2)
    assert shortage.used == 150
    assert dict(shortage.headers)["x-ratelimit-remaining-tokens"] == "0"


def test_a_stream_longer_than_the_window_gives_nothing_back_and_still_pays() -> None:
    ledger, some = Ledger(), key(tokens_per_minute=100)
    spared, exceeded = grant(ledger, some, tokens=50), grant(ledger, some, tokens=50)
    later = NOW + 600

    ledger.settle(spared, tokens=10, now=later)
    assert dict(ledger.headers(some, now=later))["x-ratelimit-remaining-tokens"] == "100"

    ledger.settle(exceeded, tokens=80, now=later)
    assert dict(ledger.headers(some, now=later))["x-ratelimit-remaining-tokens"] == "70"


def test_what_somebody_else_let_through_counts() -> None:
    ledger, some = Ledger(), key(tokens_per_minute=100)
    ledger.record(some, tokens=150, now=NOW)

    assert refuse(ledger, some, tokens=1).used == 150


def test_changed_limits_keep_what_was_used() -> None:
    ledger = Ledger()
    grant(ledger, key(tokens_per_minute=100), tokens=60)

    assert refuse(ledger, key(tokens_per_minute=50), tokens=1).used == 60
    assert isinstance(ledger.charge(key(tokens_per_minute=200), tokens=140, now=NOW), Grant)


def test_a_limit_that_came_or_went_since_is_no_matter_for_a_grant() -> None:
    ledger = Ledger()
    first = grant(ledger, key(tokens_per_minute=100), tokens=60)
    grant(ledger, key(tokens_per_day=100), tokens=60)

    ledger.settle(first, tokens=10, now=NOW)

    assert refuse(ledger, key(tokens_per_day=100), tokens=50).used == 60


def test_keys_do_not_share() -> None:
    ledger = Ledger()
    grant(ledger, key("a", requests_per_minute=1))

    grant(ledger, key("b", requests_per_minute=1))


def test_keys_that_are_gone_leave_nothing() -> None:
    ledger = Ledger()
    last = [grant(ledger, key(id_, tokens_per_minute=9), tokens=5) for id_ in ("a", "b")]

    ledger.keep({"a"})

    assert len(ledger) == 1
    for one in last:
        ledger.settle(one, tokens=0, now=NOW)
    assert len(ledger) == 1


def test_memory_is_bounded_however_much_is_asked() -> None:
    ledger, some = Ledger(), key(requests_per_minute=10**9, tokens_per_minute=10**9, tokens_per_day=10**9)
    last = grant(ledger, some)
    for step in range(20_000):
        last = grant(ledger, some, tokens=1, now=NOW + step * 7.3)

    assert last.account.requests is not None
    assert last.account.tokens is not None
    assert last.account.day is not None
    assert len(last.account.requests.slices) <= 61
    assert len(last.account.tokens.slices) <= 61
    assert len(last.account.day.slices) <= 97


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-1, "0s"), (0.2, "1s"), (59, "59s"), (61, "61s"), (360, "6m0s"), (86_400.5, "24h0m1s")],
)
def test_renders_resets_as_openai_does(seconds: float, text: str) -> None:
    assert render_reset(seconds) == text


def test_tells_of_the_limits_that_there_are() -> None:
    assert render_headers(None, None) == []
    assert render_headers(Level(10, 3, 12.5), None) == [
        ("x-ratelimit-limit-requests", "10"),
        ("x-ratelimit-remaining-requests", "7"),
        ("x-ratelimit-reset-requests", "13s"),
    ]
    assert dict(render_headers(None, Level(10, 30, 0)))["x-ratelimit-remaining-tokens"] == "0"


def test_the_minute_is_told_and_without_one_the_day() -> None:
    ledger, both, day = Ledger(), key("a", tokens_per_minute=10, tokens_per_day=100), key("b", tokens_per_day=100)

    assert dict(ledger.headers(both, now=NOW))["x-ratelimit-limit-tokens"] == "10"
    assert dict(ledger.headers(day, now=NOW))["x-ratelimit-limit-tokens"] == "100"
