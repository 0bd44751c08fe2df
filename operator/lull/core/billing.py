"""What `lull cost` tells: what each LLMDeployment costs, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lull.api.compute import Vendor
from lull.api.llmdeployment import InvalidSpec, parse_llmdeployment
from lull.core.keeping import render_amount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.api.llmdeployment import Manifest


@dataclass(frozen=True, slots=True)
class Bill:
    """Of one LLMDeployment; amounts are text, empty where no price is known."""

    namespace: str
    name: str
    replicas: int
    accelerators: int
    currency: str
    per_hour: str
    this_month: str
    budget_per_hour: str
    budget_per_month: str
    share: float
    """Of what all together have cost this month."""
    price: str
    """Where the price comes from, and of when it is."""
    at: str
    """Until when it is counted."""


@dataclass(frozen=True, slots=True)
class Total:
    """Of all that is paid for in one currency."""

    currency: str
    replicas: int
    accelerators: int
    per_hour: str
    this_month: str


@dataclass(frozen=True, slots=True)
class Account:
    month: str
    bills: tuple[Bill, ...]
    totals: tuple[Total, ...]


def build_account(manifests: Iterable[Manifest], now: float) -> Account:
    """The bills of LLMDeployments for the calendar month (UTC) of `now`, dearest first."""
    month = datetime.fromtimestamp(now, UTC).strftime("%Y-%m")
    bills = [bill for manifest in manifests if (bill := _build_bill(manifest, month)) is not None]
    totals = tuple(
        Total(
            currency,
            sum(bill.replicas for bill in bills if bill.currency == currency),
            sum(bill.accelerators for bill in bills if bill.currency == currency),
            render_amount(sum(float(bill.per_hour) for bill in bills if bill.currency == currency)),
            render_amount(sum(float(bill.this_month) for bill in bills if bill.currency == currency)),
        )
        for currency in sorted({bill.currency for bill in bills if bill.currency})
    )
    spent = {total.currency: float(total.this_month) for total in totals}
    shared = (_share(bill, spent.get(bill.currency, 0.0)) for bill in bills)
    return Account(month, tuple(sorted(shared, key=lambda bill: (-bill.share, bill.namespace, bill.name))), totals)


def _build_bill(manifest: Manifest, month: str) -> Bill | None:
    """None where the object cannot be read."""
    try:
        deployment = parse_llmdeployment(manifest)
    except InvalidSpec:
        return None
    spec, status, cost = deployment.spec, deployment.status, deployment.status.cost
    budget = spec.scaling.budget
    per_replica = 0 if spec.accelerator.vendor is Vendor.CPU else spec.parallelism.accelerators
    return Bill(
        namespace=deployment.key.namespace,
        name=deployment.key.name,
        replicas=status.replicas,
        accelerators=status.replicas * per_replica,
        currency="" if cost is None else cost.currency,
        per_hour="" if cost is None else cost.per_hour,
        # What has slept since another month has cost nothing in this one.
        this_month="" if cost is None else cost.this_month if cost.month == month else render_amount(0.0),
        budget_per_hour=(budget.per_hour if budget is not None else None) or "",
        budget_per_month=(budget.per_month if budget is not None else None) or "",
        share=0.0,
        price="" if cost is None else cost.price,
        at="" if cost is None else cost.at,
    )


def _share(bill: Bill, total: float) -> Bill:
    return replace(bill, share=round(float(bill.this_month) / total, 4)) if bill.this_month and total else bill
