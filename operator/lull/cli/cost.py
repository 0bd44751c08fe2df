"""`lull cost [NAME]`: what replicas cost, an hour and this month, and of which budget."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from lull.cli.cluster import Unreachable, ask, choose_namespace, complain, to_json
from lull.core.billing import Account, Bill, build_account
from lull.doors import clock
from lull.doors.kube import LLMDEPLOYMENTS

if TYPE_CHECKING:
    from lull.doors.kube import Kube

_WIDEST: Final = 400


def run(name: str | None, *, namespace: str | None, everywhere: bool, context: str | None, output: str) -> int:
    """Print the bills; 1 where there is nothing of that name."""
    scope = choose_namespace(namespace, everywhere=everywhere, context=context)

    async def look(kube: Kube) -> Account:
        listing = await kube.list(LLMDEPLOYMENTS, namespace=scope)
        named = [one for one in listing.items if name in {None, one["metadata"]["name"]}]
        return build_account(named, clock.wall())

    try:
        account = ask(look, context=context)
    except Unreachable as error:
        return complain("cost", error)
    where = "in any namespace" if scope is None else f"in namespace {scope}"
    if name is not None and not account.bills:
        return complain("cost", LookupError(f"there is no LLMDeployment {name} {where}"))
    if output == "json":
        print(json.dumps(to_json(account), indent=2))
    elif not account.bills:
        print(f"There is no LLMDeployment {where}.")
    else:
        _print(account)
    return 0


def _print(account: Account) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAMESPACE", "NAME"):
        table.add_column(title, no_wrap=True)
    for title in ("REPLICAS", "ACCELERATORS", "PER HOUR", account.month, "SHARE", "BUDGET"):
        table.add_column(title, justify="right", no_wrap=True)
    for bill in account.bills:
        share = f"{bill.share:.0%}" if bill.this_month else "-"
        table.add_row(
            *(bill.namespace, bill.name, str(bill.replicas), str(bill.accelerators)),
            *(bill.per_hour or "-", bill.this_month or "-", share, _render_budget(bill)),
        )
    for total in account.totals:
        figures = (str(total.replicas), str(total.accelerators), total.per_hour, total.this_month)
        table.add_row(f"total, {total.currency}", "", *figures, "", "", style="bold")
    # Wide enough for any row: a name that is cut is none.
    Console(width=_WIDEST, soft_wrap=True, highlight=False).print(table)
    console = Console(soft_wrap=True, highlight=False)
    for price in sorted({bill.price for bill in account.bills if bill.price}):
        console.print(f"A replica: {price}.", style="dim")
    unknown = ", ".join(f"{bill.namespace}/{bill.name}" for bill in account.bills if not bill.currency)
    if unknown:
        console.print(f"No price is known, see operator.acceleratorPrices of the chart: {unknown}.", style="dim")


def _render_budget(bill: Bill) -> str:
    parts = [f"{bill.budget_per_hour}/h"] if bill.budget_per_hour else []
    if bill.budget_per_month:
        used = float(bill.this_month) / float(bill.budget_per_month) if float(bill.budget_per_month) else 1.0
        parts.append(f"{bill.budget_per_month}/month" + (f" ({used:.0%} used)" if bill.this_month else ""))
    return ", ".join(parts) or "-"
