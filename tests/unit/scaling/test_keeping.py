"""What of scaling survives the operator, in status."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lull.api.timestamps import parse_timestamp
from lull.core.budget import Spending
from lull.core.keeping import (
    doubt,
    find_basis,
    is_wake,
    recall_knowledge,
    recall_spending,
    render_amount,
    update_cost,
    update_learnt,
)
from lull.core.learning import Knowledge
from lull.core.prices import ReplicaPrice
from lull.core.signals import Service
from tests.manifests import manifest, stored

NOON = parse_timestamp("2026-11-21T12:00:00Z")
PRICE = ReplicaPrice(0.8048, "USD", "1 x NVIDIA-L4 at 0.8048 (a list of 2026-07-20)")
SPENT = Spending("2026-11", 12.5, NOON - 86400, NOON)
KNOWN = Knowledge(
    at=50.0,
    service=Service(arrived=900, finished=890),
    ready=2,
    changed_at=0.0,
    rough_at=0.0,
    age=5000.0,
    slow=3.0,
    peak=7.123456,
    quickest=0.0213,
    promptest=0.2,
    briefest=0.0317,
    capacity=2.41379,
    evidence=4000.0,
    margin=0.312,
)


def test_says_what_replicas_cost() -> None:
    cost = update_cost(None, SPENT, PRICE, replicas=3, wall=NOON)

    assert cost.model_dump(by_alias=True) == {
        "currency": "USD",
        "perHour": "2.4144",
        "perReplica": "0.8048",
        "price": "1 x NVIDIA-L4 at 0.8048 (a list of 2026-07-20)",
        "month": "2026-11",
        "thisMonth": "12.50",
        "since": "2026-11-20T12:00:00Z",
        "at": "2026-11-21T12:00:00Z",
    }


def test_what_adds_up_is_said_every_five_minutes() -> None:
    first = update_cost(None, SPENT, PRICE, replicas=3, wall=NOON)
    for seconds in range(1, 300):
        more = replace(SPENT, amount=SPENT.amount + seconds * 0.001, at=NOON + seconds)
        assert update_cost(first, more, PRICE, replicas=3, wall=NOON + seconds) is first

    late = replace(SPENT, amount=13.0, at=NOON + 300)
    assert update_cost(first, late, PRICE, replicas=3, wall=NOON + 300).this_month == "13.00"


def test_another_rate_is_said_at_once() -> None:
    first = update_cost(None, SPENT, PRICE, replicas=3, wall=NOON)

    assert update_cost(first, SPENT, PRICE, replicas=2, wall=NOON + 1).per_hour == "1.6096"
    assert update_cost(first, SPENT, replace(PRICE, words="other"), replicas=3, wall=NOON + 1).price == "other"


def test_what_sleeps_has_nothing_to_say() -> None:
    first = update_cost(None, SPENT, PRICE, replicas=0, wall=NOON)
    later = replace(SPENT, at=NOON + 86400)

    assert update_cost(first, later, PRICE, replicas=0, wall=NOON + 86400) is first


def test_takes_spending_up_again() -> None:
    cost = update_cost(None, SPENT, PRICE, replicas=3, wall=NOON)

    assert recall_spending(cost, currency="USD") == SPENT
    assert recall_spending(cost, currency="EUR") is None
    assert recall_spending(cost.model_copy(update={"this_month": "much"}), currency="USD") is None
    assert recall_spending(None, currency="USD") is None


@pytest.mark.parametrize(("amount", "text"), [(0.0, "0.00"), (12.5, "12.50"), (0.8048, "0.8048"), (1.23456, "1.2346")])
def test_money_has_two_to_four_digits(amount: float, text: str) -> None:
    assert render_amount(amount) == text


def test_says_what_was_learnt_for_people() -> None:
    learnt = update_learnt(None, KNOWN, basis="abc", wall=NOON)

    assert learnt is not None
    assert learnt.model_dump(by_alias=True) == {
        "at": "2026-11-21T12:00:00Z",
        "basis": "abc",
        "capacity": "2.41",
        "margin": "0.31",
        "peak": "7.12",
        "evidence": "5m",
        "timeToFirstToken": "200ms",
        "timePerOutputToken": "21.3ms",
        "wholeAnswer": "0.0317",
    }


def test_keeps_nothing_that_is_not_known_yet() -> None:
    assert update_learnt(None, replace(KNOWN, evidence=3.0), basis="abc", wall=NOON) is None
    assert update_learnt(None, None, basis="abc", wall=NOON) is None


def test_says_only_what_has_changed_by_more_than_a_bit_and_seldom() -> None:
    first = update_learnt(None, KNOWN, basis="abc", wall=NOON)
    assert first is not None
    little, much = replace(KNOWN, capacity=2.5), replace(KNOWN, capacity=3.0)

    assert update_learnt(first, little, basis="abc", wall=NOON + 3000) is first
    assert update_learnt(first, much, basis="abc", wall=NOON + 299) is first
    changed = update_learnt(first, much, basis="abc", wall=NOON + 300)
    assert changed is not None
    assert changed.capacity == "3"


def test_takes_up_what_was_learnt_of_the_same_pods_only() -> None:
    learnt = update_learnt(None, KNOWN, basis="abc", wall=NOON)
    assert learnt is not None

    known = recall_knowledge(learnt, basis="abc", ready=2, now=10.0)

    assert known is not None
    assert known.is_known
    assert (known.capacity, known.margin, known.peak) == (2.41, 0.31, 7.12)
    assert known.quickest == pytest.approx(0.0213)
    assert known.briefest == pytest.approx(0.0317)
    assert (known.slow, known.age) == (0.0, 0.0)
    assert recall_knowledge(learnt, basis="other", ready=2, now=10.0) is None
    assert recall_knowledge(learnt.model_copy(update={"peak": "high"}), basis="abc", ready=2, now=10.0) is None
    assert update_learnt(learnt, None, basis="other", wall=NOON) is None


def test_an_absurd_margin_is_taken_for_the_largest() -> None:
    learnt = update_learnt(None, replace(KNOWN, margin=50.0), basis="abc", wall=NOON)

    known = recall_knowledge(learnt, basis="abc", ready=2, now=10.0)

    assert known is not None
    assert known.margin == 2.0


def test_doubts_what_was_learnt_of_pods_that_are_replaced() -> None:
    doubted = doubt(KNOWN)

    assert doubted is not None
    assert doubted.is_known
    assert (doubted.evidence, doubted.quickest, doubted.capacity) == (30.0, None, KNOWN.capacity)
    assert doubted.briefest is None
    assert doubt(None) is None


def test_what_is_learnt_depends_on_the_pods_and_on_the_slo() -> None:
    plain = find_basis(stored(manifest()))

    assert find_basis(stored(manifest(scaling={"maxReplicas": 3}))) == plain
    assert find_basis(stored(manifest(engine={"maxModelLen": 1024}))) != plain
    assert find_basis(stored(manifest(slo={"percentile": 90}))) != plain


@pytest.mark.parametrize(
    ("text", "wakes"),
    [
        ("2026-11-21T12:00:00Z", True),
        ("2026-11-21T13:00:00.123456+01:00", True),
        ("", False),
        ("now", False),
        ("true", False),
    ],
)
def test_a_wake_is_a_time(text: str, wakes: bool) -> None:
    assert is_wake(text) is wakes
