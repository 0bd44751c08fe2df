"""Every condition of an LLMDeployment, in a fixed order of precedence: the same cluster always gets the same words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from lull.api.placement import CapacityType
from lull.api.reasons import ConditionType, Reason
from lull.api.status import AdapterState
from lull.core.remedies import REMEDIES
from lull.core.replicas import exists, pool_of
from lull.core.troubles import PATIENCE_SECONDS, unscheduled_since

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.status import AdapterStatus
    from lull.core.nodes import NodeCheck
    from lull.core.observed import Observed
    from lull.core.replicas import Counts
    from lull.core.troubles import Trouble
    from lull.core.views import Problem, ScalingView

_STUCK: Final = frozenset(
    {
        Reason.CACHE_NOT_WRITABLE,
        Reason.POD_FORBIDDEN,
        Reason.ROLLOUT_STALLED,
        Reason.IMAGE_PULL_FAILED,
        Reason.SOURCE_NOT_FOUND,
        Reason.SOURCE_FORBIDDEN,
        Reason.DISK_FULL,
        Reason.ENGINE_ARGUMENT_INVALID,
        Reason.ENGINE_CRASH_LOOP,
        Reason.ENGINE_OUT_OF_MEMORY,
        Reason.CONFIG_ERROR,
        Reason.QUOTA_EXCEEDED,
        Reason.COLD_START_TIMED_OUT,
    }
)
"""Reasons that waiting does not cure; those of a spec that is not valid come on top."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition before it is dated."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What conditions are judged by."""

    problem: Problem | None
    """Why the spec was refused."""
    conflict: str | None
    """Why its names are another's."""
    nodes: NodeCheck
    trouble: tuple[Trouble, int] | None
    """What is wrong with replicas that should be ready, and how many have it."""
    adapters: tuple[AdapterStatus, ...]
    scaling: ScalingView


def judge(
    deployment: LLMDeployment, observed: Observed, counts: Counts, findings: Findings, *, now: float
) -> tuple[Verdict, ...]:
    """All conditions, in the order in which they are shown."""
    spec_valid = _judge_spec(findings, observed.foreign)
    workloads = _judge_workloads(deployment, counts, findings.trouble)
    adapters = _judge_adapters(deployment, counts, findings.adapters)
    ready = _judge_ready(deployment, counts, spec_valid, workloads)
    if deployment.deleting:
        reconciling = Verdict(ConditionType.RECONCILING, "True", Reason.DELETING, "It is being deleted.")
        stuck = None
    else:
        stuck = _find_stuck(spec_valid, workloads, adapters, findings.trouble, now=now)
        reconciling = _judge_reconciling(workloads, adapters, stuck)
    return (
        ready,
        reconciling,
        Verdict(ConditionType.STALLED, "False", Reason.SETTLED, "")
        if stuck is None
        else Verdict(ConditionType.STALLED, "True", stuck.reason, stuck.message),
        spec_valid,
        workloads,
        *([adapters] if adapters is not None else []),
        *_judge_spot(deployment, observed, now=now),
        _judge_scaling(findings.scaling),
    )


def advise(message: str, reason: Reason, *, advice: str = "", name: str = "") -> str:
    """What is wrong, then what to do about it."""
    remedy = advice or REMEDIES.get(reason, "").replace("{name}", name)
    if message and message[-1] not in ".!?":
        message += "."
    return f"{message} {remedy}".strip()


def _judge_spec(findings: Findings, foreign: tuple[Manifest, ...]) -> Verdict:
    advice = ""
    if findings.problem is not None:
        reason, detail = findings.problem.reason, findings.problem.message
    elif foreign:
        taken = " and ".join(f'{one["kind"]} "{one["metadata"]["name"]}"' for one in foreign)
        verb = "exists and belongs" if len(foreign) == 1 else "exist and belong"
        reason, detail = Reason.CHILD_NAME_TAKEN, f"{taken} {verb} to somebody else, so nothing is created or changed"
    elif findings.conflict is not None:
        reason, detail = Reason.NAME_CONFLICT, findings.conflict
    elif findings.trouble is not None and findings.trouble[0].reason is Reason.INCOMPATIBLE_MODEL:
        trouble = findings.trouble[0]
        reason, detail, advice = trouble.reason, trouble.detail, trouble.advice
    elif findings.nodes.warnings:
        message = advise("; ".join(findings.nodes.warnings), Reason.NO_MATCHING_NODE)
        return Verdict(ConditionType.SPEC_VALID, "True", Reason.NO_MATCHING_NODE, message)
    else:
        return Verdict(ConditionType.SPEC_VALID, "True", Reason.VALID, "")
    return Verdict(ConditionType.SPEC_VALID, "False", reason, advise(detail, reason, advice=advice))


def _judge_workloads(deployment: LLMDeployment, counts: Counts, found: tuple[Trouble, int] | None) -> Verdict:
    """Whether the children are where they should be."""
    kind = ConditionType.WORKLOADS_READY
    if found is not None and (counts.desired > 0 or counts.existing > 0):
        trouble, replicas = found
        detail = (
            f"{_of(replicas, max(counts.desired, counts.existing, replicas))}: {trouble.detail.strip().rstrip('.')}"
        )
        message = advise(detail, trouble.reason, advice=trouble.advice, name=deployment.key.name)
        return Verdict(kind, "False", trouble.reason, message)
    if not counts.created:
        return Verdict(kind, "False", Reason.STARTING, "Its workloads are not there yet.")
    tally = f"{_of(counts.ready, counts.desired)} ready." if counts.desired else "No replica is asked for."
    leaving = counts.leaving + max(counts.existing - counts.desired, 0)
    if counts.ready < counts.desired:
        return Verdict(kind, "False", Reason.STARTING, tally)
    if counts.outdated:
        reason, message = Reason.ROLLING_OUT, f"{tally} {counts.outdated} still of the revision before."
    elif leaving:
        reason, message = Reason.SCALING_DOWN, f"{tally} {leaving} finishing and going."
    elif counts.desired == 0:
        reason, message = Reason.SCALED_TO_ZERO, "No replica runs, as none is asked for."
    elif counts.asleep == counts.ready:
        reason, message = Reason.ASLEEP, f"{_of(counts.asleep, counts.desired)} asleep."
    else:
        reason, message = Reason.SERVING, tally
    return Verdict(kind, "True", reason, message)


def _judge_adapters(deployment: LLMDeployment, counts: Counts, adapters: tuple[AdapterStatus, ...]) -> Verdict | None:
    """Whether every adapter answers; None where the spec has no adapters."""
    if deployment.spec.adapters is None:
        return None
    kind = ConditionType.ADAPTERS_READY
    failed = [adapter for adapter in adapters if adapter.state is AdapterState.FAILED]
    ready = sum(adapter.state is AdapterState.READY for adapter in adapters)
    if failed:
        first = failed[0]
        detail = f"{len(failed)} of {_adapters(len(adapters))} failed: {first.name}: {first.message.rstrip('.')}"
        return Verdict(kind, "False", Reason.ADAPTER_FAILED, advise(detail, Reason.ADAPTER_FAILED))
    if ready == len(adapters):
        return Verdict(kind, "True", Reason.ADAPTERS_LOADED, f"{_adapters(ready)} ready.")
    if counts.desired == 0:
        return Verdict(kind, "True", Reason.SCALED_TO_ZERO, "They are loaded when a replica starts.")
    return Verdict(kind, "False", Reason.ADAPTERS_LOADING, f"{ready} of {_adapters(len(adapters))} ready.")


def _judge_ready(deployment: LLMDeployment, counts: Counts, spec_valid: Verdict, workloads: Verdict) -> Verdict:
    """Whether a request that comes now is answered, by a ready replica or by one that it starts."""
    kind = ConditionType.READY
    if deployment.deleting:
        return Verdict(kind, "False", Reason.DELETING, "It is being deleted.")
    if spec_valid.status == "False":
        still = f" Meanwhile the last valid spec is served by {_replicas(counts.ready)}." if counts.ready else ""
        return Verdict(kind, "False", spec_valid.reason, spec_valid.message + still)
    if counts.ready and counts.asleep == counts.ready:
        wakes = "it" if counts.ready == 1 else "them"
        return Verdict(
            kind, "True", Reason.ASLEEP, f"{_of(counts.asleep, counts.desired)} asleep; a request wakes {wakes}."
        )
    if counts.ready:
        reason = Reason.SERVING if counts.desired else Reason.SCALING_DOWN
        tally = f"{_of(counts.ready, counts.desired)} ready." if counts.desired else "No replica is asked for."
        if counts.outdated and workloads.status == "False" and workloads.reason is not Reason.STARTING:
            tally += " The revision before serves on, as the new one does not become ready."
        more = workloads.message if workloads.reason not in {Reason.SERVING, Reason.STARTING} else ""
        return Verdict(kind, "True", reason, more if more.startswith(tally) else f"{tally} {more}".strip())
    if counts.desired == 0 and counts.created:
        message = "No replica runs; the next request starts one."
        # Asleep by order of a person: then a request does not start anything.
        if deployment.spec.replicas == 0:
            message = "spec.replicas is 0: no replica runs until it is raised."
        return Verdict(kind, "True", Reason.SCALED_TO_ZERO, message)
    return Verdict(kind, "False", workloads.reason, workloads.message)


def _find_stuck(
    spec_valid: Verdict,
    workloads: Verdict,
    adapters: Verdict | None,
    found: tuple[Trouble, int] | None,
    *,
    now: float,
) -> Verdict | None:
    """What a person must see to before anything moves."""
    if spec_valid.status == "False":
        return spec_valid
    if found is not None and workloads.reason is found[0].reason and _is_lasting(found[0], now):
        return workloads
    if workloads.status == "True" and adapters is not None and adapters.reason is Reason.ADAPTER_FAILED:
        return adapters
    return None


def _is_lasting(trouble: Trouble, now: float) -> bool:
    if trouble.since is not None:
        return now - trouble.since > PATIENCE_SECONDS
    return trouble.reason in _STUCK and not trouble.is_retried


def _judge_reconciling(workloads: Verdict, adapters: Verdict | None, stuck: Verdict | None) -> Verdict:
    kind = ConditionType.RECONCILING
    if stuck is not None:
        return Verdict(kind, "False", stuck.reason, "Waiting does not help.")
    if workloads.status == "False" or workloads.reason in {Reason.SCALING_DOWN, Reason.ROLLING_OUT}:
        return Verdict(kind, "True", workloads.reason, workloads.message)
    if adapters is not None and adapters.status == "False":
        return Verdict(kind, "True", adapters.reason, adapters.message)
    return Verdict(kind, "False", Reason.SETTLED, "")


def _judge_spot(deployment: LLMDeployment, observed: Observed, *, now: float) -> tuple[Verdict, ...]:
    """Whether pools of spot capacity get nodes; nothing where there is no such pool."""
    pools = [pool.name for pool in deployment.spec.placement.pools if pool.capacity_type is CapacityType.SPOT]
    if not pools:
        return ()
    kind = ConditionType.SPOT_AVAILABLE
    existing = [pod for pod in observed.pods if exists(pod)]
    waits = {pod["metadata"]["name"]: (pool_of(pod), unscheduled_since(pod)) for pod in existing}
    waiting = [pool for pool, since in waits.values() if since is not None and now - since > PATIENCE_SECONDS]
    short = [pool for pool in pools if pool in waiting]
    if short:
        named = " and ".join(short)
        many = _replicas(sum(pool in pools for pool in waiting))
        minutes = int(PATIENCE_SECONDS // 60)
        detail = f"{many} of pool {named} waited for a spot node for more than {minutes} minutes"
        return (Verdict(kind, "False", Reason.SPOT_UNAVAILABLE, advise(detail, Reason.SPOT_UNAVAILABLE)),)
    running = sum(pool in pools and since is None for pool, since in waits.values())
    message = f"{_of(running, len(existing))} on spot capacity." if existing else "No replica runs."
    return (Verdict(kind, "True", Reason.SPOT_RUNNING, message),)


def _judge_scaling(scaling: ScalingView) -> Verdict:
    status: Literal["True", "False"] = "True" if scaling.reason is Reason.SCALING else "False"
    return Verdict(ConditionType.SCALING_ACTIVE, status, scaling.reason, advise(scaling.message, scaling.reason))


def _of(part: int, whole: int) -> str:
    return f"{part} of {_replicas(whole)}"


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"


def _adapters(count: int) -> str:
    return f"{count} adapter" if count == 1 else f"{count} adapters"
