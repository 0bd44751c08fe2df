"""What status keeps of scaling when the operator restarts: what was spent, what was learnt, which wake was followed.

Status is written for people, and seldom: money when a rate changes or five minutes have added something to it,
knowledge when it has changed by more than a bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from lull.api.quantities import parse_duration, render_duration
from lull.api.status import CostStatus, LearntStatus
from lull.api.timestamps import parse_timestamp, render_timestamp
from lull.core.budget import Spending
from lull.core.learning import LEAST_MARGIN, MOST_MARGIN, Knowledge
from lull.core.manifests import find_revision
from lull.core.signals import Service

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment
    from lull.core.prices import ReplicaPrice

_EVERY: Final = 300.0
"""Seconds between two writes of what grows by itself."""
_NOTABLE: Final = 0.1
"""What changes by less is not worth a write."""
_ENOUGH: Final = 300.0
"""Seconds of evidence that are worth keeping: more of it fades."""
_DOUBTED: Final = 30.0
"""Seconds of evidence that are left where pods have changed: as many again, and it is forgotten."""
_LONGEST_WAKE: Final = 64
_NOBODY: Final = Service(arrived=0, finished=0, epoch="status")
"""Counts of an epoch that is nobody's, so that the first that are heard are compared with none."""


@dataclass(frozen=True, slots=True)
class Kept:
    cost: CostStatus | None = None
    learnt: LearntStatus | None = None
    wake: str = ""
    """The annotation that was followed last."""


NOTHING: Final = Kept()


def update_cost(
    before: CostStatus | None, spending: Spending, price: ReplicaPrice, *, replicas: int, wall: float
) -> CostStatus:
    """What status should say of money: what it says, as long as that is near enough."""
    cost = CostStatus(
        currency=price.currency,
        per_hour=render_amount(replicas * price.amount),
        per_replica=render_amount(price.amount),
        price=price.words[:256],
        month=spending.month,
        this_month=render_amount(spending.amount),
        since=render_timestamp(spending.since),
        at=render_timestamp(spending.at),
    )
    if before is None:
        return cost
    is_alike = _at_rest(before, cost) == before
    is_new = cost.this_month != before.this_month and not 0 <= wall - parse_timestamp(before.at) < _EVERY
    return before if is_alike and not is_new else cost


def recall_spending(cost: CostStatus | None, *, currency: str) -> Spending | None:
    """What was spent, as status says it; None where that is in another currency, or cannot be read."""
    if cost is None or cost.currency != currency:
        return None
    try:
        return Spending(cost.month, float(cost.this_month), parse_timestamp(cost.since), parse_timestamp(cost.at))
    except ValueError:
        return None


def find_basis(deployment: LLMDeployment) -> str:
    """Digest of all that what a replica carries depends on in the spec."""
    revisions = sorted({find_revision(deployment, pool) for pool in deployment.spec.placement.pools})
    slo = deployment.spec.slo.model_dump_json(exclude_defaults=True)
    return sha256("\n".join((*revisions, slo)).encode()).hexdigest()[:10]


def update_learnt(
    before: LearntStatus | None, known: Knowledge | None, *, basis: str, wall: float
) -> LearntStatus | None:
    """What status should say of a replica: what it says, as long as that is near enough and of the same pods."""
    if before is not None and before.basis != basis:
        before = None
    if known is None or not known.is_known:
        return before
    learnt = LearntStatus(
        at=render_timestamp(wall),
        basis=basis,
        capacity=_render(known.carried),
        margin=f"{known.margin:.2f}",
        peak=_render(known.peak),
        evidence=render_duration(min(known.evidence, _ENOUGH)),
        time_to_first_token="" if known.promptest is None else _render_seconds(known.promptest),
        time_per_output_token="" if known.quickest is None else _render_seconds(known.quickest),
        whole_answer="" if known.briefest is None else _render(known.briefest),
    )
    if before is None:
        return learnt
    is_due = not 0 <= wall - parse_timestamp(before.at) < _EVERY
    return learnt if is_due and _has_changed(before, learnt) else before


def recall_knowledge(learnt: LearntStatus | None, *, basis: str, ready: int, now: float) -> Knowledge | None:
    """What was learnt, as status says it; None where it is of other pods, or cannot be read.

    How much arrives is not kept: that is seen within seconds, and may be another by now.
    """
    if learnt is None or learnt.basis != basis:
        return None
    try:
        return Knowledge(
            # A moment ago, so that the first look counts for one.
            at=now - 1.0,
            service=_NOBODY,
            ready=ready,
            changed_at=now,
            rough_at=now,
            capacity=float(learnt.capacity),
            margin=min(MOST_MARGIN, max(LEAST_MARGIN, float(learnt.margin))),
            peak=float(learnt.peak),
            evidence=min(_ENOUGH, parse_duration(learnt.evidence)),
            promptest=parse_duration(learnt.time_to_first_token) if learnt.time_to_first_token else None,
            quickest=parse_duration(learnt.time_per_output_token) if learnt.time_per_output_token else None,
            briefest=float(learnt.whole_answer) if learnt.whole_answer else None,
        )
    except ValueError:
        return None


def doubt(known: Knowledge | None) -> Knowledge | None:
    """What was learnt of pods that are being replaced by others: a first guess, until these have been seen."""
    if known is None:
        return None
    return replace(known, evidence=min(known.evidence, _DOUBTED), promptest=None, quickest=None, briefest=None)


def is_wake(text: str) -> bool:
    """Whether an annotation is one that wakes: a time, so that each is another one."""
    try:
        parse_timestamp(text)
    except ValueError:
        return False
    return len(text) <= _LONGEST_WAKE


def render_amount(amount: float) -> str:
    """Money as text: two to four digits after the point."""
    text = f"{amount:.4f}"
    return text.removesuffix("0").removesuffix("0")


def _at_rest(before: CostStatus, cost: CostStatus) -> CostStatus:
    """The cost, but for what grows by itself."""
    return cost.model_copy(update={"this_month": before.this_month, "at": before.at})


def _has_changed(before: LearntStatus, learnt: LearntStatus) -> bool:
    return (
        abs(float(learnt.margin) - float(before.margin)) >= _NOTABLE / 2
        or _differ(float(before.capacity), float(learnt.capacity))
        or _differ(float(before.peak), float(learnt.peak))
        or _differ(parse_duration(before.evidence), parse_duration(learnt.evidence))
    )


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > _NOTABLE * max(one, other)


def _render(number: float) -> str:
    """Three digits, without an exponent."""
    text = f"{float(f'{number:.3g}'):f}"
    return text.rstrip("0").rstrip(".")


def _render_seconds(seconds: float) -> str:
    return f"{_render(seconds * 1000)}ms"
