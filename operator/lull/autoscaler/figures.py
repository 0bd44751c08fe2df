"""Every input and output of a decision, as series: what `lull why` tells of one moment, over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lull.doors import metrics

if TYPE_CHECKING:
    from lull.api.llmdeployment import Key
    from lull.core.budget import Cap, Spending
    from lull.core.learning import Knowledge
    from lull.core.prices import ReplicaPrice
    from lull.core.scaling import Decision, ReplicaCounts
    from lull.core.signals import Demand


@dataclass(frozen=True, slots=True)
class Money:
    """What a decision knew of money."""

    cap: Cap | None
    price: ReplicaPrice | None
    spending: Spending | None


def publish(key: Key, decision: Decision, demand: Demand | None, counts: ReplicaCounts, money: Money) -> None:
    """Set the series of one LLMDeployment; those of which nothing is known are absent."""
    metrics.DESIRED_REPLICAS.labels(*key).set(decision.replicas)
    if demand is not None:
        for state in ("held", "in_flight", "waiting"):
            metrics.DEMAND.labels(*key, state).set(getattr(demand, state))
    metrics.DEMAND_COMPLETE.labels(*key).set(0 if demand is None else int(demand.complete))
    replicas: dict[str, int | None] = {
        "asked": counts.asked,
        "ready": counts.ready,
        "loading": counts.loading,
        "stuck": decision.stuck,
        "wanted": decision.wanted,
        "least": decision.least,
        "most": decision.most,
        "scheduled": None if decision.floor is None else decision.floor.replicas,
        "budget": None if money.cap is None else money.cap.replicas,
    }
    for of, count in replicas.items():
        metrics.put(metrics.SCALING_REPLICAS, count, *key, of)
    _publish_knowledge(key, decision.history.knowledge)
    price, spending = money.price, money.spending
    metrics.put(metrics.COST_PER_HOUR, None if price is None else price.amount * counts.paid, *key)
    metrics.put(metrics.COST_THIS_MONTH, None if spending is None else spending.amount, *key)


def _publish_knowledge(key: Key, known: Knowledge | None) -> None:
    is_known = known is not None and known.is_known
    metrics.put(metrics.ARRIVALS, known.expected if known is not None else None, *key)
    metrics.put(metrics.BUSYNESS, known.busyness if known is not None else None, *key)
    metrics.put(metrics.CAPACITY, known.carried if known is not None and is_known else None, *key)
    metrics.put(metrics.MARGIN, known.margin if known is not None and is_known else None, *key)
