"""From what is observed to `status`: counts, conditions, the measured cold start.

Conditions follow a fixed order of precedence, so that the same cluster always gives the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from lull.api import names
from lull.api.quantities import render_duration
from lull.api.reasons import ConditionType, Reason
from lull.api.status import (
    AdapterState,
    AdapterStatus,
    ColdStart,
    Condition,
    DecisionRecord,
    LLMDeploymentStatus,
    PoolStatus,
)
from lull.api.timestamps import parse_timestamp, render_timestamp
from lull.core.manifests import find_revision
from lull.core.manifests.pods import CONTAINER_ENGINE, CONTAINER_FETCH
from lull.core.troubles import Trouble, find_trouble

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.observed import Observed

REMEDIES: Final = {
    Reason.INVALID_SPEC: "Correct the field; Lull tries again when the spec changes.",
    Reason.NAME_CONFLICT: "Give spec.model.name (or the alias) a value of its own, or delete the other LLMDeployment.",
    Reason.CHILD_NAME_TAKEN: (
        "Delete that object or create it under another name, or choose another metadata.name for the LLMDeployment."
    ),
    Reason.UNSCHEDULABLE: (
        "Add nodes that fit, or ask for less: spec.accelerator, spec.parallelism.tensor, spec.resources, spec.placement."
    ),
    Reason.IMAGE_PULL_FAILED: "Check spec.engine.image, and that the nodes may pull it.",
    Reason.SOURCE_NOT_FOUND: "Check the name and the revision in spec.model.source.",
    Reason.SOURCE_FORBIDDEN: (
        "Set spec.model.secretName to a Secret whose key `token` may read the model, and accept its licence on the hub."
    ),
    Reason.DISK_FULL: (
        "Weights lie on the node's ephemeral storage: use nodes with more of it, a smaller model, or a volume that "
        "holds the model already (spec.model.source pvc://claim/path)."
    ),
    Reason.FETCH_FAILED: "Lull keeps trying; check that pods can reach the hub, and its state.",
    Reason.ENGINE_CRASH_LOOP: (
        "Check spec.engine (image, extraArgs, maxModelLen) against the engine's log: "
        f"kubectl logs -l {names.LABEL_DEPLOYMENT}={{name}} -c {CONTAINER_ENGINE} --previous."
    ),
    Reason.ENGINE_OUT_OF_MEMORY: "Raise spec.resources.memory, or lower spec.engine.maxModelLen or maxNumSeqs.",
    Reason.CONFIG_ERROR: "Create what the pod refers to (spec.model.secretName), or change what the cluster refuses.",
    Reason.QUOTA_EXCEEDED: "Raise the ResourceQuota of the namespace, or lower spec.scaling.maxReplicas.",
    Reason.COLD_START_TIMED_OUT: "Use a smaller model, faster storage, or spec.engine.enforceEager.",
    Reason.METRICS_UNAVAILABLE: "Check that the gateways run; until they answer, replicas stay as they are.",
}
"""What to do about each reason that needs doing."""

_UNSCHEDULABLE_SECONDS: Final = 300.0
"""A node that an autoscaler adds takes minutes; only later is a pod without a node stuck."""

_STUCK: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_CONFLICT,
        Reason.CHILD_NAME_TAKEN,
        Reason.IMAGE_PULL_FAILED,
        Reason.SOURCE_NOT_FOUND,
        Reason.SOURCE_FORBIDDEN,
        Reason.DISK_FULL,
        Reason.ENGINE_CRASH_LOOP,
        Reason.ENGINE_OUT_OF_MEMORY,
        Reason.CONFIG_ERROR,
        Reason.QUOTA_EXCEEDED,
        Reason.COLD_START_TIMED_OUT,
    }
)
"""Reasons that waiting does not cure."""


@dataclass(frozen=True, slots=True)
class ScalingView:
    """What the autoscaler says of one LLMDeployment."""

    desired_replicas: int | None
    """None before its first decision."""
    reason: Reason
    """SCALING, MANUAL or METRICS_UNAVAILABLE."""
    message: str
    decisions: tuple[DecisionRecord, ...]
    """Newest first, at most ten."""


@dataclass(frozen=True, slots=True)
class AdapterView:
    """How far one adapter is, as the engines say."""

    name: str
    state: AdapterState
    ready_replicas: int
    message: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    """One condition before it is dated."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class _Counts:
    existing: int
    ready: int
    desired: int
    leaving: int
    """Pods that are being deleted."""
    outdated: int
    """Replicas of an earlier revision."""
    created: bool
    """Whether the Deployments exist."""


def summarize(
    deployment: LLMDeployment,
    observed: Observed,
    *,
    scaling: ScalingView,
    adapters: tuple[AdapterView, ...] = (),
    problem: str | None,
    conflict: str | None,
    now: float,
) -> Manifest:
    """The whole `status` of an LLMDeployment.

    `problem` is why the spec was refused, `conflict` why its names are another's.
    """
    previous = deployment.status
    counts = _count(deployment, observed, scaling)
    found = find_trouble(observed.workloads, tuple(pod for pod in _existing(observed.pods) if not is_ready(pod)))
    verdicts = _judge(deployment, counts, found, problem=problem, conflict=conflict, foreign=observed.foreign, now=now)
    return LLMDeploymentStatus(
        observed_generation=deployment.generation,
        replicas=counts.existing,
        ready_replicas=counts.ready,
        desired_replicas=counts.desired,
        selector=",".join(f"{key}={value}" for key, value in names.engine_labels(deployment.key.name).items()),
        summary=f"{counts.ready}/{counts.desired}",
        served_names=list(deployment.served_names),
        pools=_count_pools(deployment.spec, observed, counts),
        adapters=_list_adapters(deployment, adapters),
        cold_start=_measure_cold_start(previous, observed),
        decisions=list(scaling.decisions),
        conditions=[_date(verdict, deployment, now) for verdict in (*verdicts, _judge_scaling(scaling))],
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
    message = _advise(problem, Reason.INVALID_SPEC)
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


def is_ready(pod: Manifest) -> bool:
    """Whether a pod takes requests now."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    return _condition_time(pod, "Ready") is not None


def _count(deployment: LLMDeployment, observed: Observed, scaling: ScalingView) -> _Counts:
    spec = deployment.spec
    existing = _existing(observed.pods)
    asked = sum(workload["spec"].get("replicas", 0) for workload in observed.workloads)
    # Before the autoscaler's first decision the spec's own floor stands for it, so that "nothing runs" is not
    # mistaken for "nothing should run".
    floor = spec.scaling.min_replicas if spec.replicas is None else spec.replicas
    return _Counts(
        existing=len(existing),
        ready=sum(is_ready(pod) for pod in existing),
        desired=max(asked, floor) if scaling.desired_replicas is None else scaling.desired_replicas,
        leaving=sum("deletionTimestamp" in pod["metadata"] for pod in observed.pods),
        outdated=_count_outdated(deployment, existing),
        created=bool(observed.workloads),
    )


def _existing(pods: tuple[Manifest, ...]) -> list[Manifest]:
    """Pods that count as replicas; like a ReplicaSet, not those that go or have ended."""
    return [
        pod
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and (pod.get("status") or {}).get("phase") not in {"Failed", "Succeeded"}
    ]


def _count_outdated(deployment: LLMDeployment, pods: list[Manifest]) -> int:
    """Replicas of another revision than the spec now gives, by their own labels: Deployments tell it late."""
    revisions = {pool.name: find_revision(deployment, pool) for pool in deployment.spec.placement.pools}
    labels = [pod["metadata"].get("labels") or {} for pod in pods]
    return sum(
        label.get(names.LABEL_REVISION) != revisions.get(label.get(names.LABEL_POOL, ""))
        for label in labels
        if names.LABEL_REVISION in label
    )


def _count_pools(spec: LLMDeploymentSpec, observed: Observed, counts: _Counts) -> list[PoolStatus]:
    pools = spec.placement.pools
    existing = _existing(observed.pods)
    by_pool = {
        pool.name: [pod for pod in existing if (pod["metadata"].get("labels") or {}).get(names.LABEL_POOL) == pool.name]
        for pool in pools
    }
    asked = {
        (workload["metadata"].get("labels") or {}).get(names.LABEL_POOL, ""): workload["spec"].get("replicas", 0)
        for workload in observed.workloads
    }
    return [
        PoolStatus(
            name=pool.name,
            replicas=len(by_pool[pool.name]),
            ready_replicas=sum(is_ready(pod) for pod in by_pool[pool.name]),
            desired_replicas=counts.desired if len(pools) == 1 else asked.get(pool.name, 0),
        )
        for pool in pools
    ]


def _list_adapters(deployment: LLMDeployment, views: tuple[AdapterView, ...]) -> list[AdapterStatus]:
    """Each adapter of the spec, in its order; one that nobody has looked at yet is pending."""
    known = {view.name: view for view in views}
    unseen = (AdapterView(name, AdapterState.PENDING, 0, "") for name in deployment.adapter_names if name not in known)
    known |= {view.name: view for view in unseen}
    return [
        AdapterStatus(name=name, state=view.state, ready_replicas=view.ready_replicas, message=view.message)
        for name in deployment.adapter_names
        for view in (known[name],)
    ]


def _judge(
    deployment: LLMDeployment,
    counts: _Counts,
    found: tuple[Trouble, int] | None,
    *,
    problem: str | None,
    conflict: str | None,
    foreign: tuple[Manifest, ...],
    now: float,
) -> tuple[_Verdict, ...]:
    spec_valid = _judge_spec(problem, conflict, foreign)
    workloads = _judge_workloads(deployment, counts, found)
    ready = _judge_ready(deployment, counts, spec_valid, workloads)
    stuck = spec_valid if spec_valid.status == "False" else _find_stuck(workloads, found, now)
    if deployment.deleting:
        reconciling = _Verdict(ConditionType.RECONCILING, "True", Reason.DELETING, "It is being deleted.")
        stalled = _Verdict(ConditionType.STALLED, "False", Reason.SETTLED, "")
    elif stuck is not None:
        reconciling = _Verdict(ConditionType.RECONCILING, "False", stuck.reason, "Waiting does not help.")
        stalled = _Verdict(ConditionType.STALLED, "True", stuck.reason, stuck.message)
    else:
        moving = workloads.status == "False" or workloads.reason in {Reason.SCALING_DOWN, Reason.ROLLING_OUT}
        reconciling = (
            _Verdict(ConditionType.RECONCILING, "True", workloads.reason, workloads.message)
            if moving
            else _Verdict(ConditionType.RECONCILING, "False", Reason.SETTLED, "")
        )
        stalled = _Verdict(ConditionType.STALLED, "False", Reason.SETTLED, "")
    return ready, reconciling, stalled, spec_valid, workloads


def _judge_spec(problem: str | None, conflict: str | None, foreign: tuple[Manifest, ...]) -> _Verdict:
    if problem is not None:
        reason, detail = Reason.INVALID_SPEC, problem
    elif foreign:
        taken = " and ".join(f'{one["kind"]} "{one["metadata"]["name"]}"' for one in foreign)
        verb = "exists and belongs" if len(foreign) == 1 else "exist and belong"
        reason, detail = Reason.CHILD_NAME_TAKEN, f"{taken} {verb} to somebody else, so nothing is created or changed"
    elif conflict is not None:
        reason, detail = Reason.NAME_CONFLICT, conflict
    else:
        return _Verdict(ConditionType.SPEC_VALID, "True", Reason.VALID, "")
    return _Verdict(ConditionType.SPEC_VALID, "False", reason, _advise(detail, reason))


def _judge_workloads(deployment: LLMDeployment, counts: _Counts, found: tuple[Trouble, int] | None) -> _Verdict:
    """Whether the children are where they should be."""
    kind = ConditionType.WORKLOADS_READY
    if found is not None and (counts.desired > 0 or counts.existing > 0):
        trouble, replicas = found
        detail = f"{_of(replicas, max(counts.desired, counts.existing))}: {trouble.detail.strip().rstrip('.')}."
        return _Verdict(kind, "False", trouble.reason, _advise(detail, trouble.reason, name=deployment.key.name))
    if not counts.created:
        return _Verdict(kind, "False", Reason.STARTING, "Its Deployment is not there yet.")
    tally = f"{_of(counts.ready, counts.desired)} ready." if counts.desired else "No replica is asked for."
    leaving = counts.leaving + max(counts.existing - counts.desired, 0)
    if counts.ready < counts.desired:
        return _Verdict(kind, "False", Reason.STARTING, tally)
    if counts.outdated:
        reason, message = Reason.ROLLING_OUT, f"{tally} {counts.outdated} still of the revision before."
    elif leaving:
        reason, message = Reason.SCALING_DOWN, f"{tally} {leaving} finishing and going."
    elif counts.desired == 0:
        reason, message = Reason.SCALED_TO_ZERO, "No replica runs, as none is asked for."
    else:
        reason, message = Reason.SERVING, tally
    return _Verdict(kind, "True", reason, message)


def _judge_ready(deployment: LLMDeployment, counts: _Counts, spec_valid: _Verdict, workloads: _Verdict) -> _Verdict:
    """Whether a request that comes now is answered, by a ready replica or by one that it starts."""
    kind = ConditionType.READY
    if deployment.deleting:
        return _Verdict(kind, "False", Reason.DELETING, "It is being deleted.")
    if spec_valid.status == "False":
        still = f" Meanwhile the last valid spec is served by {_replicas(counts.ready)}." if counts.ready else ""
        return _Verdict(kind, "False", spec_valid.reason, spec_valid.message + still)
    if counts.ready:
        reason = Reason.SERVING if counts.desired else Reason.SCALING_DOWN
        tally = f"{_of(counts.ready, counts.desired)} ready." if counts.desired else "No replica is asked for."
        more = workloads.message if workloads.reason not in {Reason.SERVING, Reason.STARTING} else ""
        return _Verdict(kind, "True", reason, more if more.startswith(tally) else f"{tally} {more}".strip())
    if counts.desired == 0 and counts.created:
        message = "No replica runs; the next request starts one."
        # Asleep by order of a person: then a request does not start anything.
        if deployment.spec.replicas == 0:
            message = "spec.replicas is 0: no replica runs until it is raised."
        return _Verdict(kind, "True", Reason.SCALED_TO_ZERO, message)
    return _Verdict(kind, "False", workloads.reason, workloads.message)


def _find_stuck(workloads: _Verdict, found: tuple[Trouble, int] | None, now: float) -> _Verdict | None:
    if found is None or workloads.reason is not found[0].reason:
        return None
    trouble = found[0]
    if trouble.reason is Reason.UNSCHEDULABLE:
        is_stuck = trouble.since is not None and now - trouble.since > _UNSCHEDULABLE_SECONDS
    else:
        is_stuck = trouble.reason in _STUCK and not trouble.is_retried
    return workloads if is_stuck else None


def _judge_scaling(scaling: ScalingView) -> _Verdict:
    status: Literal["True", "False"] = "True" if scaling.reason is Reason.SCALING else "False"
    message = _advise(scaling.message, scaling.reason)
    return _Verdict(ConditionType.SCALING_ACTIVE, status, scaling.reason, message)


def _date(verdict: _Verdict, deployment: LLMDeployment, now: float) -> Condition:
    earlier = next((condition for condition in deployment.status.conditions if condition.type == verdict.type), None)
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


def _measure_cold_start(previous: LLMDeploymentStatus, observed: Observed) -> ColdStart | None:
    """The start of the first replica after none was ready, once it is; else what was measured before."""
    if previous.cold_start is not None and previous.ready_replicas > 0:
        return previous.cold_start
    starts = [start for pod in _existing(observed.pods) if (start := _measure(pod)) is not None]
    newest = min(starts, key=lambda start: start[0], default=None)
    # A pod that was unready for a moment comes back with a later Ready time: its start was measured already.
    if newest is None or (previous.cold_start is not None and newest[1].at <= previous.cold_start.at):
        return previous.cold_start
    return newest[1]


def _measure(pod: Manifest) -> tuple[float, ColdStart] | None:
    """When a pod became ready and its stages, or None where its timestamps do not tell the first start."""
    created_at = pod["metadata"].get("creationTimestamp")
    scheduled, ready = _condition_time(pod, "PodScheduled"), _condition_time(pod, "Ready")
    status = pod.get("status") or {}
    engine = _container(status.get("containerStatuses"), CONTAINER_ENGINE)
    running = (engine.get("state") or {}).get("running") or {}
    if not created_at or scheduled is None or ready is None or not running or engine.get("restartCount", 0):
        return None
    created, started = parse_timestamp(created_at), parse_timestamp(running["startedAt"])
    fetched = (_container(status.get("initContainerStatuses"), CONTAINER_FETCH).get("state") or {}).get("terminated")
    weights = parse_timestamp(fetched["finishedAt"]) - parse_timestamp(fetched["startedAt"]) if fetched else 0.0
    return ready, ColdStart(
        at=created_at,
        scheduled=render_duration(scheduled - created),
        # The engine's image may also be pulled after the fetcher has ended; both waits are the image's.
        image=render_duration(started - scheduled - weights),
        weights=render_duration(weights),
        warm_up=render_duration(ready - started),
        total=render_duration(ready - created),
    )


def _condition_time(pod: Manifest, kind: str) -> float | None:
    """When a condition of a pod became true, or None where it is not."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == kind and condition["status"] == "True":
            return parse_timestamp(condition["lastTransitionTime"]) if condition.get("lastTransitionTime") else 0.0
    return None


def _container(statuses: list[Manifest] | None, name: str) -> Manifest:
    return next((status for status in statuses or () if status["name"] == name), {})


def _advise(message: str, reason: Reason, *, name: str = "") -> str:
    """What is wrong, then what to do about it."""
    remedy = REMEDIES.get(reason, "").replace("{name}", name)
    if message and message[-1] not in ".!?":
        message += "."
    return f"{message} {remedy}".strip()


def _of(part: int, whole: int) -> str:
    return f"{part} of {_replicas(whole)}"


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"
