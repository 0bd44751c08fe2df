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
    from collections.abc import Iterable

    from lull.api.scaling import BudgetSpec

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
    since: float
    """From when it is counted, in seconds since the Unix epoch, as the next."""
    at: float
    """Until when."""


def spend(spending: Spending | None, replicas: int, *, price: float, wall: float) -> Spending:
    """Add what so many replicas have cost since the last time; a month begins with nothing spent."""
    return _add(spending, (float("-inf"),) * replicas, price=price, wall=wall)


def catch_up(spending: Spending, starts: Iterable[float], *, price: float, wall: float) -> Spending:
    """Add what replicas have cost that began at these times, while nobody counted."""
    return _add(spending, starts, price=price, wall=wall)


def _add(spending: Spending | None, starts: Iterable[float], *, price: float, wall: float) -> Spending:
    begin = _begin_month(datetime.fromtimestamp(wall, UTC)).timestamp()
    month = datetime.fromtimestamp(wall, UTC).strftime("%Y-%m")
    if spending is None:
        return Spending(month, 0.0, wall, wall)
    if spending.month != month:
        spending = Spending(month, 0.0, begin, max(begin, spending.at))
    hours = sum(max(0.0, wall - max(spending.at, start)) for start in starts) / 3600
    return replace(spending, amount=spending.amount + price * hours, at=max(wall, spending.at))


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
