"""What the money pays for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lull.api.scaling import BudgetSpec
from lull.api.spec import LLMDeploymentSpec
from lull.core.budget import Spending, find_cap, find_price, parse_prices, spend

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
    november = Spending("2026-11", 500.0, LAST_HOUR)

    december = spend(november, 2, price=1.0, wall=LAST_HOUR + 2 * 3600)

    assert (december.month, december.amount) == ("2026-12", 2.0)


def test_never_spends_more_than_a_month_may_cost() -> None:
    budget, spending = BudgetSpec(per_month="50"), spend(None, 0, price=2.0, wall=MID_MONTH)
    for minute in range(1, 15 * 24 * 60, 10):
        running = cap(budget, spent=spending.amount, wall=MID_MONTH + minute * 60) or 0
        spending = spend(spending, running, price=2.0, wall=MID_MONTH + minute * 60)

    assert 45 < spending.amount <= 50 + 2.0 / 6


def test_reads_prices() -> None:
    assert parse_prices("NVIDIA-L4=0.81, *=3") == {"NVIDIA-L4": 0.81, "*": 3.0}
    assert parse_prices("") == {}


@pytest.mark.parametrize("text", ["NVIDIA-L4", "=1", "a=-1", "a=inf", "a=b"])
def test_refuses_what_is_no_price(text: str) -> None:
    with pytest.raises(ValueError, match="is no price: write for example"):
        parse_prices(text)


def test_counts_the_accelerators_of_the_dearest_pool() -> None:
    spec = LLMDeploymentSpec.model_validate(
        {
            "model": {"source": "hf://org/name"},
            "parallelism": {"tensor": 2},
            "placement": {"pools": [{"name": "a", "product": "NVIDIA-L4"}, {"name": "b", "product": "NVIDIA-H100"}]},
        }
    )

    assert find_price(spec, {"NVIDIA-L4": 0.8, "NVIDIA-H100": 4.0}) == 8.0
    assert find_price(spec, {"NVIDIA-L4": 0.8}) is None
    assert find_price(spec, {"NVIDIA-L4": 0.8, "*": 5.0}) == 10.0
