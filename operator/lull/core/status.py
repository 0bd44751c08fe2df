"""From what is observed to `status`: counts, conditions, the measured cold start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.compute import Vendor
from lull.api.placement import CapacityType
from lull.api.reasons import ConditionType, Reason
from lull.api.status import AdapterState, AdapterStatus, Condition, EngineStatus, LLMDeploymentStatus
from lull.api.timestamps import render_timestamp
from lull.core.coldstart import measure_cold_start
from lull.core.nodes import UNCHECKED, NodeCheck
from lull.core.remedies import REMEDIES
from lull.core.replicas import count, count_pools, exists, find_unready, pool_of
from lull.core.troubles import Case, Trouble, find_trouble
from lull.core.verdicts import Findings, Verdict, advise, judge
from lull.core.views import AdapterView, Problem, ScalingView

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.observed import Observed
    from lull.core.replicas import Counts

__all__ = ["REMEDIES", "AdapterView", "Problem", "ScalingView", "summarize", "summarize_unreadable"]

_DEVICES: Final = {
    Vendor.NVIDIA: "NVIDIA GPU",
    Vendor.AMD: "AMD GPU",
    Vendor.TPU: "TPU",
    Vendor.NEURON: "Neuron device",
    Vendor.CPU: "CPU",
}
_MESSAGE: Final = 1024
_CLAIM: Final = "PersistentVolumeClaim"


def summarize(
    deployment: LLMDeployment,
    observed: Observed,
    *,
    scaling: ScalingView,
    adapters: tuple[AdapterView, ...] = (),
    nodes: NodeCheck = UNCHECKED,
    problem: Problem | None,
    conflict: str | None,
    gateway_url: str = "",
    now: float,
) -> Manifest:
    """The whole `status` of an LLMDeployment.

    `problem` is why the spec was refused, `conflict` why its names are another's.
    """
    spec = deployment.spec
    counts = count(deployment, observed, scaling)
    listed = _list_adapters(deployment, adapters)
    findings = Findings(
        problem=problem,
        conflict=conflict,
        nodes=nodes,
        trouble=_find_trouble(deployment, observed, counts, nodes, now=now),
        adapters=listed,
        scaling=scaling,
    )
    verdicts = judge(deployment, observed, counts, findings, now=now)
    return LLMDeploymentStatus(
        observed_generation=deployment.generation,
        replicas=counts.existing,
        ready_replicas=counts.ready,
        asleep_replicas=counts.asleep,
        desired_replicas=counts.desired,
        selector=",".join(f"{key}={value}" for key, value in names.engine_labels(deployment.key.name).items()),
        summary=f"{counts.ready}/{counts.desired}",
        served_names=list(deployment.served_names),
        pools=count_pools(deployment, observed, counts),
        adapters=list(listed),
        adapters_summary=_summarize_adapters(spec, listed),
        engine=EngineStatus(vendor=spec.accelerator.vendor, image=deployment.engine_image)
        if spec.engine.image is None
        else None,
        accelerator=_describe_accelerator(spec),
        spot=_summarize_spot(spec, observed),
        url=gateway_url,
        cold_start=measure_cold_start(deployment.status, observed),
        decisions=list(scaling.decisions),
        cost=scaling.kept.cost,
        learnt=scaling.kept.learnt,
        wake=scaling.kept.wake or None,
        conditions=[_date(verdict, deployment, now) for verdict in verdicts],
    ).model_dump(mode="json", by_alias=True, exclude_none=True)


def summarize_unreadable(manifest: Manifest, problem: str, *, now: float) -> Manifest:
    """The part of `status` that can be said of an object which cannot even be parsed."""
    metadata = manifest.get("metadata") or {}
    generation = metadata.get("generation") or 0
    earlier = {
        condition["type"]: condition
        for condition in (manifest.get("status") or {}).get("conditions") or ()
        if isinstance(condition, dict) and "type" in condition
    }
    message = advise(problem, Reason.INVALID_SPEC)
    return {
        "observedGeneration": generation,
        "conditions": [
            {
                "type": kind.value,
                "status": status,
                "reason": Reason.INVALID_SPEC.value,
                "message": message,
                "lastTransitionTime": earlier[kind]["lastTransitionTime"]
                if earlier.get(kind, {}).get("status") == status
                else render_timestamp(now),
                "observedGeneration": generation,
            }
            for kind, status in (
                (ConditionType.READY, "False"),
                (ConditionType.RECONCILING, "False"),
                (ConditionType.STALLED, "True"),
                (ConditionType.SPEC_VALID, "False"),
            )
        ],
    }


def _find_trouble(
    deployment: LLMDeployment, observed: Observed, counts: Counts, nodes: NodeCheck, *, now: float
) -> tuple[Trouble, int] | None:
    claims = tuple(child for child in observed.others if child["kind"] == _CLAIM)
    case = Case(deployment.spec, nodes.pools, claims, now)
    found = find_trouble(observed.workloads, find_unready(deployment, observed), case)
    # Without replicas of an earlier revision it is a first start, which says itself what is wrong.
    if found is not None and found[0].reason is Reason.ROLLOUT_STALLED and not counts.outdated:
        return None
    return found


def _list_adapters(deployment: LLMDeployment, views: tuple[AdapterView, ...]) -> tuple[AdapterStatus, ...]:
    """Each adapter of the spec, in its order; one that nobody has looked at yet is pending."""
    known = {view.name: view for view in views}
    found = (known.get(name, AdapterView(name, AdapterState.PENDING, 0, "")) for name in deployment.adapter_names)
    return tuple(
        AdapterStatus(
            name=view.name, state=view.state, ready_replicas=view.ready_replicas, message=view.message[:_MESSAGE]
        )
        for view in found
    )


def _summarize_adapters(spec: LLMDeploymentSpec, adapters: tuple[AdapterStatus, ...]) -> str:
    if spec.adapters is None:
        return ""
    return f"{sum(adapter.state is AdapterState.READY for adapter in adapters)}/{len(adapters)}"


def _describe_accelerator(spec: LLMDeploymentSpec) -> str:
    """What one replica computes on; pools may differ in their product."""
    accelerator = spec.accelerator
    if accelerator.vendor is Vendor.CPU:
        return _DEVICES[Vendor.CPU]
    any_product = accelerator.product or _DEVICES[accelerator.vendor]
    products = list(dict.fromkeys(pool.product or any_product for pool in spec.placement.pools))
    named = " or ".join(products) if len(products) <= 2 else f"{products[0]} or others"
    nodes = accelerator.nodes_per_replica
    on_each = f"{spec.parallelism.accelerators // nodes}x {named}"
    return (on_each if nodes == 1 else f"{nodes} nodes x {on_each}")[:128]


def _summarize_spot(spec: LLMDeploymentSpec, observed: Observed) -> str:
    """Replicas in pools of spot capacity, of all; empty where there is no such pool."""
    spot = {pool.name for pool in spec.placement.pools if pool.capacity_type is CapacityType.SPOT}
    existing = [pod for pod in observed.pods if exists(pod)]
    return f"{sum(pool_of(pod) in spot for pod in existing)}/{len(existing)}" if spot else ""


def _date(verdict: Verdict, deployment: LLMDeployment, now: float) -> Condition:
    earlier = deployment.status.find_condition(verdict.type)
    return Condition(
        type=verdict.type.value,
        status=verdict.status,
        reason=verdict.reason.value,
        message=verdict.message,
        last_transition_time=earlier.last_transition_time
        if earlier is not None and earlier.status == verdict.status
        else render_timestamp(now),
        observed_generation=deployment.generation,
    )
