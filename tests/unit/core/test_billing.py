"""What `lull cost` adds up."""

from __future__ import annotations

from typing import Any

from lull.api.llmdeployment import Manifest
from lull.api.timestamps import parse_timestamp
from lull.core.billing import build_account
from tests.manifests import manifest

NOW = parse_timestamp("2026-11-21T14:05:11Z")


def model(
    name: str, *, spent: str | None = "30.00", replicas: int = 2, month: str = "2026-11", **spec: Any
) -> Manifest:
    cost = {
        "currency": "USD",
        "perHour": f"{2 * replicas}.00",
        "perReplica": "2.00",
        "price": "1 x NVIDIA-L4 at 2",
        "month": month,
        "thisMonth": spent,
        "since": "2026-11-01T00:00:00Z",
        "at": "2026-11-21T14:05:00Z",
    }
    status = {"replicas": replicas, **({} if spent is None else {"cost": cost})}
    return {**manifest(name=name, **spec), "status": status}


def test_adds_up_and_puts_the_dearest_first() -> None:
    account = build_account([model("a"), model("b", spent="90.00", parallelism={"tensor": 4})], NOW)

    assert [(bill.name, bill.share, bill.accelerators) for bill in account.bills] == [("b", 0.75, 8), ("a", 0.25, 2)]
    (total,) = account.totals
    assert (total.currency, total.replicas, total.accelerators, total.per_hour) == ("USD", 4, 10, "8.00")
    assert total.this_month == "120.00"


def test_what_has_no_price_is_in_no_total() -> None:
    account = build_account([model("a", spent=None, replicas=1)], NOW)

    assert (account.bills[0].per_hour, account.bills[0].share, account.totals) == ("", 0.0, ())


def test_what_has_slept_since_another_month_has_cost_nothing_in_this_one() -> None:
    account = build_account([model("a", month="2026-10", replicas=0)], NOW)

    assert account.bills[0].this_month == "0.00"


def test_tells_the_budget() -> None:
    (bill,) = build_account([model("a", scaling={"budget": {"perMonth": "400"}})], NOW).bills

    assert (bill.budget_per_hour, bill.budget_per_month) == ("", "400")


def test_a_replica_on_cpu_has_no_accelerators() -> None:
    (bill,) = build_account([model("a", accelerator={"vendor": "Cpu"})], NOW).bills

    assert bill.accelerators == 0


def test_leaves_out_what_cannot_be_read() -> None:
    assert build_account([{**model("a"), "spec": {}}], NOW).bills == ()
