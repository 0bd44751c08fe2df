"""What `lull why` tells: the last decisions, what holds the number of replicas now, and what would change it.

All of it is in the object: the operator need not be asked, or be there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lull.api.llmdeployment import InvalidSpec, parse_llmdeployment
from lull.api.quantities import render_duration
from lull.api.reasons import ConditionType, Reason
from lull.api.scaling import ScalingMode
from lull.core.budget import find_cap
from lull.core.placement import find_capacity
from lull.core.scaling import build_policy
from lull.core.schedules import find_floor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.status import DecisionRecord

_ARROW: Final = re.compile(r"^[0-9]+ → [0-9]+: ")


@dataclass(frozen=True, slots=True)
class Explanation:
    namespace: str
    name: str
    desired_replicas: int
    ready_replicas: int
    decisions: tuple[DecisionRecord, ...]
    """Newest first."""
    holds: tuple[str, ...]
    """What the number of replicas is held by, a sentence each."""
    levers: tuple[str, ...]
    """What would change it."""


def explain(manifest: Manifest, now: float) -> Explanation:
    """All that there is to say of one LLMDeployment; `now` is seconds since the Unix epoch."""
    metadata = manifest["metadata"]
    try:
        deployment = parse_llmdeployment(manifest)
    except InvalidSpec as error:
        return Explanation(metadata.get("namespace", ""), metadata["name"], 0, 0, (), (str(error),), ())
    status = deployment.status
    return Explanation(
        deployment.key.namespace,
        deployment.key.name,
        status.desired_replicas,
        status.ready_replicas,
        tuple(status.decisions),
        tuple(_list_holds(deployment)),
        tuple(_list_levers(deployment, now)),
    )


def strip_arrow(message: str) -> str:
    """A decision's message without the change that it begins with."""
    return _ARROW.sub("", message)


def _list_holds(deployment: LLMDeployment) -> Iterator[str]:
    spec, status = deployment.spec, deployment.status
    scaling = status.find_condition(ConditionType.SCALING_ACTIVE)
    workloads = status.find_condition(ConditionType.WORKLOADS_READY)
    if scaling is None:
        yield "No operator has looked at it yet: see `lull doctor`."
        return
    yield scaling.message
    if workloads is not None and workloads.status != "True":
        yield f"{workloads.reason}: {workloads.message}"
    if scaling.reason in {Reason.SCALING, Reason.SHADOW}:
        yield _describe_target(deployment)
        policy = build_policy(spec, cold_start=deployment.cold_start)
        window = render_duration(policy.scale_down.window)
        yield f"Fewer run only when load has allowed it for {window}, the last one {spec.scaling.idle_after} after the last request."
    if status.cold_start is not None:
        yield f"A replica takes about {status.cold_start.total} to be ready, as the last cold start did."
    if status.cost is not None:
        cost = status.cost
        yield (
            f"It costs {cost.per_hour} {cost.currency} an hour and has cost {cost.this_month} in {cost.month}: {cost.price}."
        )


def _describe_target(deployment: LLMDeployment) -> str:
    """What a replica is taken to carry."""
    scaling, learnt = deployment.spec.scaling, deployment.status.learnt
    if scaling.target.in_flight is None and learnt is not None:
        return (
            f"A replica carries {learnt.capacity} requests/s within spec.slo, learnt from {learnt.evidence} under load; "
            f"the margin is {learnt.margin}."
        )
    policy = build_policy(deployment.spec)
    target = f"{policy.target_queue} waiting and {policy.target_in_flight} in flight per replica"
    if scaling.target.in_flight is not None:
        return f"The target is {target}."
    return f"The target is {target}, until it is known what a replica carries."


def _list_levers(deployment: LLMDeployment, now: float) -> Iterator[str]:
    spec, status, name = deployment.spec, deployment.status, deployment.key.name
    scaling, desired = spec.scaling, status.desired_replicas
    if spec.replicas is not None:
        yield f"kubectl scale llm/{name} --replicas=N, or Lull itself once spec.replicas is removed."
        return
    if scaling.mode is ScalingMode.SHADOW:
        yield "Whoever sets the replicas now; Lull does once scaling.mode is Active."
        return
    most, limit = _find_limit(deployment, now)
    floor = find_floor(scaling.schedules, now)
    if desired >= most:
        yield f"More than {most} run where {limit} allows it."
    else:
        yield f"More run, up to {most}, when more is asked for than replicas carry."
    if desired == 0:
        yield f"A request, or `lull wake {name}`, starts the first replica."
    elif floor is not None and desired <= floor.replicas:
        yield f'Fewer than {floor.replicas} run when the schedule "{floor.cron}" ({floor.timezone}) is over.'
    elif desired <= scaling.min_replicas:
        yield f"Fewer than {scaling.min_replicas} run where scaling.minReplicas is lower."
    else:
        yield (
            f"Fewer run when less is asked for, and none after {scaling.idle_after} without a request."
            if (scaling.min_replicas == 0)
            else f"Fewer run, down to {scaling.min_replicas}, when less is asked for."
        )


def _find_limit(deployment: LLMDeployment, now: float) -> tuple[int, str]:
    """The most replicas, and the field that says so."""
    scaling, cost = deployment.spec.scaling, deployment.status.cost
    limits = [(scaling.max_replicas, "scaling.maxReplicas")]
    capacity = find_capacity(deployment.spec.placement)
    if capacity is not None:
        limits.append((capacity, "maxReplicas of the pools"))
    if cost is not None:
        cap = find_cap(scaling.budget, price=float(cost.per_replica), spent=float(cost.this_month), wall=now)
        if cap is not None:
            limits.append((cap.replicas, "scaling.budget"))
    return min(limits)
