"""The scaler of production, on what it would see of a simulated fleet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from lull.core.budget import find_cap, spend
from lull.core.scaling import ReplicaCounts, build_policy, decide
from lull.core.signals import Demand, Service
from lull.core.simulation.foresight import Foresight

if TYPE_CHECKING:
    from lull.api.reasons import ScalingReason
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.budget import Spending
    from lull.core.scaling import History, Policy
    from lull.core.simulation.fleet import View
    from lull.core.simulation.foresight import Past

_KEPT_CHANGES: Final = 1000


@dataclass(frozen=True, slots=True)
class Change:
    """A decision that changed the count."""

    at: float
    from_replicas: int
    to_replicas: int
    reason: ScalingReason
    message: str


class LullScaler:
    """`decide`, every tick and at once when a request is held, as in the operator.

    `poll_delay` is how old what gateways say is when it is decided on, `price` what a replica costs an hour. A policy
    in shadow mode is played as if it were active. A forecast is learnt from `past` arrivals and from what comes.
    """

    wakes: Final = True

    def __init__(
        self,
        spec: LLMDeploymentSpec,
        *,
        tick: float = 1.0,
        poll_delay: float = 0.0,
        price: float | None = None,
        past: Past | None = None,
    ) -> None:
        self.tick: Final = tick
        self.changes: deque[Change] = deque(maxlen=_KEPT_CHANGES)
        """The last of them, oldest first."""
        self._spec = spec
        self._price = price
        self._policy = _build_policy(spec)
        self._spending: Spending | None = None
        forecast = spec.scaling.forecast
        self._foresight = (
            None if forecast is None else Foresight(forecast, target_in_flight=self._policy.target_in_flight, past=past)
        )
        self._poll_delay = poll_delay
        self._history: History | None = None
        self._heard: deque[tuple[float, Demand]] = deque()
        self._counted = (0, 0)
        self._last_request_at: float | None = None

    def scale(self, view: View) -> int:
        """Replicas to have from now on."""
        replicas = ReplicaCounts(view.asked, view.ready, view.loading, view.ready_at)
        self._follow(view)
        decision = decide(self._policy, self._hear(view), replicas, history=self._history, now=view.now, wall=view.wall)
        self._history = decision.history
        if decision.replicas != view.asked:
            change = Change(view.now, view.asked, decision.replicas, decision.reason, decision.message)
            self.changes.append(change)
        return decision.replicas

    def _follow(self, view: View) -> None:
        """Keep what the policy takes from outside the spec."""
        if view.cold_start != self._policy.cold_start:
            self._policy = _build_policy(self._spec, cold_start=view.cold_start)
        budget, price = self._spec.scaling.budget, self._price
        if budget is not None and price is not None:
            self._spending = spend(self._spending, view.asked, price=price, wall=view.wall)
            cap = find_cap(budget, price=price, spent=self._spending.amount, wall=view.wall)
            self._policy = replace(self._policy, cap=cap)
        if self._foresight is not None:
            knowledge = self._history.knowledge if self._history is not None else None
            self._policy = replace(self._policy, ahead=self._foresight.look(view, knowledge))

    def _hear(self, view: View) -> Demand | None:
        """What the gateways said last, if that took `poll_delay` to get here; None before the first word of theirs."""
        if (counted := (view.arrived, view.finished)) != self._counted:
            self._counted, self._last_request_at = counted, view.now
        self._heard.append(
            (
                view.now,
                Demand(
                    held=view.held,
                    in_flight=view.in_flight,
                    # All requests come through the gateway.
                    waiting=0,
                    last_request_at=self._last_request_at,
                    complete=True,
                    service=Service(
                        arrived=view.arrived,
                        finished=view.finished,
                        met=view.met,
                        missed=view.missed,
                        queued=view.waiting,
                        reading=sum(view.reading_by_replica) / view.ready if view.ready else None,
                        kv_usage=sum(view.kv_usage) / view.ready if view.ready else None,
                        first_token=view.ttft_p90,
                        per_token=view.tpot_p90,
                    ),
                ),
            )
        )
        known = view.now - self._poll_delay
        while len(self._heard) > 1 and self._heard[1][0] <= known:
            self._heard.popleft()
        at, demand = self._heard[0]
        return demand if at <= known else None


def _build_policy(spec: LLMDeploymentSpec, *, cold_start: float | None = None) -> Policy:
    return replace(build_policy(spec, cold_start=cold_start), is_shadow=False)
