"""What the money pays for."""

from __future__ import annotations

from datetime import UTC, datetime

from lull.api.scaling import BudgetSpec
from lull.core.budget import Spending, catch_up, find_cap, spend

MID_MONTH = datetime(2026, 11, 15, tzinfo=UTC).timestamp()
LAST_HOUR = datetime(2026, 11, 30, 23, tzinfo=UTC).timestamp()


def cap(budget: BudgetSpec, *, price: float | None = 2.0, spent: float = 0.0, wall: float = MID_MONTH) -> int | None:
    found = find_cap(budget, price=price, spent=spent, wall=wall)
    return None if found is None else found.replicas


def test_pays_for_as_many_as_cost_no_more_in_an_hour() -> None:
    assert cap(BudgetSpec(per_hour="7.99")) == 3
    assert cap(BudgetSpec(per_hour="8")) == 4
    assert cap(BudgetSpec(per_hour="1")) == 0


def test_sets_no_cap_where_nobody_knows_a_price() -> None:
    assert cap(BudgetSpec(per_hour="8"), price=None) is None
    assert find_cap(None, price=2.0, spent=0.0, wall=MID_MONTH) is None


def test_spreads_what_is_left_of_a_month_over_a_day() -> None:
    assert cap(BudgetSpec(per_month="1000")) == 20
    assert cap(BudgetSpec(per_month="1000"), spent=760) == 5


def test_lets_the_last_replica_use_up_the_rest() -> None:
    assert cap(BudgetSpec(per_month="100"), spent=99.0) == 1
    assert cap(BudgetSpec(per_month="100"), spent=99.99) == 0
    assert cap(BudgetSpec(per_month="100"), spent=120.0) == 0


def test_need_not_last_beyond_the_month() -> None:
    assert cap(BudgetSpec(per_month="100"), spent=80.0, wall=LAST_HOUR) == 10


def test_takes_the_tighter_of_two() -> None:
    found = find_cap(BudgetSpec(per_hour="6", per_month="1000"), price=2.0, spent=0.0, wall=MID_MONTH)

    assert found is not None
    assert found.replicas == 3
    assert found.message == "6 an hour pays for 3 at 2 each"


def test_counts_what_replicas_cost() -> None:
    begun = spend(None, 3, price=2.0, wall=MID_MONTH)
    later = spend(begun, 3, price=2.0, wall=MID_MONTH + 1800)

    assert (begun.amount, later.amount) == (0.0, 3.0)


def test_begins_a_month_with_what_it_has_cost_itself() -> None:
    november = Spending("2026-11", 500.0, MID_MONTH, LAST_HOUR)

    december = spend(november, 2, price=1.0, wall=LAST_HOUR + 2 * 3600)

    assert (december.month, december.amount) == ("2026-12", 2.0)
    assert december.since == LAST_HOUR + 3600


def test_charges_for_a_gap_what_began_in_it_from_its_beginning() -> None:
    known = Spending("2026-11", 10.0, MID_MONTH, MID_MONTH)
    now = MID_MONTH + 7200

    caught_up = catch_up(known, [MID_MONTH - 100, MID_MONTH + 3600], price=2.0, wall=now)

    assert caught_up == Spending("2026-11", 16.0, MID_MONTH, now)


def test_charges_nothing_for_a_gap_in_which_nothing_is_known_to_have_run() -> None:
    known = Spending("2026-11", 10.0, MID_MONTH, MID_MONTH)

    assert catch_up(known, [], price=2.0, wall=MID_MONTH + 7200).amount == 10.0


def test_charges_a_month_only_for_the_part_of_a_gap_that_is_in_it() -> None:
    known = Spending("2026-11", 10.0, MID_MONTH, LAST_HOUR)

    assert catch_up(known, [0.0], price=2.0, wall=LAST_HOUR + 3 * 3600).amount == 4.0


def test_never_spends_more_than_a_month_may_cost() -> None:
    budget, spending = BudgetSpec(per_month="50"), spend(None, 0, price=2.0, wall=MID_MONTH)
    for minute in range(1, 15 * 24 * 60, 10):
        running = cap(budget, spent=spending.amount, wall=MID_MONTH + minute * 60) or 0
        spending = spend(spending, running, price=2.0, wall=MID_MONTH + minute * 60)

    assert 45 < spending.amount <= 50 + 2.0 / 6
