"""`spec.scaling.budget`: how many replicas the money pays for.

A budget for an hour is a limit on what runs at a time. One for a month is spent as load asks for it, and what is left
of it has to last for the rest of the month, or for a day where that is shorter: towards its end replicas become
fewer, rather than all of them going at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lull.api.scaling import BudgetSpec
    from lull.api.spec import LLMDeploymentSpec

_LASTING_HOURS: Final = 24.0
_SMALLEST_HOURS: Final = 1 / 60
"""The last replica goes when what is left pays for less than that."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that a budget pays for."""

    replicas: int
    message: str
    """Which budget, and what a replica costs."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What replicas have cost in a month."""

    month: str
    amount: float
    at: float
    """Until when it is counted, in seconds since the Unix epoch."""


def parse_prices(text: str) -> dict[str, float]:
    """Prices of an accelerator-hour by product: `NVIDIA-L4=0.81,NVIDIA-H100=3.90`; `*` is any other one."""
    prices: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        product, _, price = part.partition("=")
        try:
            amount = float(price)
        except ValueError:
            amount = -1.0
        if not product or not 0 <= amount < float("inf"):
            raise ValueError(f"{part!r} is no price: write for example NVIDIA-L4=0.81")
        prices[product.strip()] = amount
    return prices


def find_price(spec: LLMDeploymentSpec, prices: Mapping[str, float]) -> float | None:
    """What one replica costs an hour, in the dearest pool that it may run in; None where a price is missing."""
    products = {pool.product or spec.accelerator.product or "*" for pool in spec.placement.pools}
    known = [prices.get(product, prices.get("*")) for product in products]
    if not known or any(price is None for price in known):
        return None
    return max(price for price in known if price is not None) * spec.parallelism.accelerators


def spend(spending: Spending | None, replicas: int, *, price: float, wall: float) -> Spending:
    """Add what so many replicas have cost since the last time; a month begins with nothing spent."""
    month = datetime.fromtimestamp(wall, UTC).strftime("%Y-%m")
    if spending is None:
        return Spending(month, 0.0, wall)
    if spending.month == month:
        hours = max(0.0, wall - spending.at) / 3600
        return replace(spending, amount=spending.amount + replicas * price * hours, at=max(wall, spending.at))
    begin = _begin_month(datetime.fromtimestamp(wall, UTC)).timestamp()
    return Spending(month, replicas * price * max(0.0, wall - max(begin, spending.at)) / 3600, wall)


def find_cap(budget: BudgetSpec | None, *, price: float | None, spent: float, wall: float) -> Cap | None:
    """The cap that a budget sets now; None where there is no budget, or nobody knows what a replica costs."""
    if budget is None or not price:
        return None
    caps = []
    if budget.per_hour is not None:
        most = int(float(budget.per_hour) / price + _ROUNDING)
        caps.append(Cap(most, f"{budget.per_hour} an hour pays for {most} at {price:g} each"))
    if budget.per_month is not None:
        left = max(0.0, float(budget.per_month) - spent)
        most = _spread(left / price, wall)
        caps.append(Cap(most, f"{left:.2f} of {budget.per_month} are left this month, for {most} at {price:g} an hour"))
    return min(caps, key=lambda cap: cap.replicas)


def _begin_month(at: datetime) -> datetime:
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _spread(replica_hours: float, wall: float) -> int:
    """Replicas that may run now, with so much left for the month."""
    at = datetime.fromtimestamp(wall, UTC)
    end = _begin_month(_begin_month(at) + timedelta(days=32))
    hours = max((end - at).total_seconds() / 3600, _SMALLEST_HOURS)
    most = int(replica_hours / min(hours, _LASTING_HOURS) + _ROUNDING)
    return most or int(replica_hours >= min(hours, _SMALLEST_HOURS))
