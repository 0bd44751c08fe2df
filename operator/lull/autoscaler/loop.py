"""Look at demand, decide, scale: for each LLMDeployment once a tick, and at once when something happens.

Everything that a decision needs is in memory, so that from a held request to the scaled workload there is one
request to the API server and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from lull.api import names
from lull.api.reasons import Reason, ScalingReason
from lull.api.status import DecisionRecord
from lull.api.timestamps import parse_timestamp
from lull.core.planning import is_scaled
from lull.core.scaling import Decision, History, ReplicaCounts, build_policy, decide
from lull.core.status import ScalingView, is_ready
from lull.doors import clock, metrics
from lull.doors.events import ScaledReason
from lull.doors.kube import DEPLOYMENTS, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import Key, LLMDeployment, Manifest
    from lull.autoscaler.collecting import Collector, Timing
    from lull.core.signals import Demand
    from lull.doors.events import Recorder
    from lull.doors.kube import Kube
    from lull.doors.store import Store

log = structlog.get_logger(__name__)

_KEPT_DECISIONS: Final = 10
_EXPECT_SECONDS: Final = 5.0
"""How long the watch may take to show a replica count that we wrote, before what it shows counts again."""


@dataclass(frozen=True, slots=True)
class _Written:
    """A replica count that we wrote and have not yet seen come back."""

    uid: str
    replicas: int
    at: float


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of one LLMDeployment between two looks."""

    uid: str
    decisions: tuple[DecisionRecord, ...]
    history: History | None = None
    desired: int | None = None
    workload: str = ""
    """uid of the workload that `desired` is about."""
    written: _Written | None = None
    view: tuple[Reason, str] | None = None
    """Reason and message of the condition ScalingActive."""
    missing_since: float | None = None


class Autoscaler:
    """The work of the autoscaler's queue."""

    def __init__(
        self,
        kube: Kube,
        *,
        store: Store,
        collector: Collector,
        recorder: Recorder,
        timing: Timing,
        on_decision: Callable[[Key], None],
    ) -> None:
        self._kube = kube
        self._store = store
        self._collector = collector
        self._recorder = recorder
        self._timing = timing
        self._on_decision = on_decision
        self._known: dict[Key, _Known] = {}

    def view(self, deployment: LLMDeployment) -> ScalingView:
        """What status is to say about scaling."""
        known = self._known.get(deployment.key)
        if known is None or known.uid != deployment.uid or known.view is None:
            # Not looked at yet: repeat what status says, so that a restart of the operator changes nothing in it.
            said = next((one for one in deployment.status.conditions if one.type == "ScalingActive"), None)
            reason = Reason(said.reason) if said is not None and said.reason in _VIEWS else Reason.SCALING
            decisions = tuple(deployment.status.decisions)
            return ScalingView(None, reason, said.message if said else "", decisions)
        return ScalingView(known.desired, *known.view, known.decisions)

    async def scale(self, key: Key) -> float | None:
        """Decide for one LLMDeployment and carry it out; seconds until the next look."""
        deployment = self._store.find_deployment(key)
        if deployment is None or deployment.deleting:
            self._forget(key)
            return None
        workload = _find_workload(deployment, self._store.list_workloads(deployment))
        if workload is None:
            # The reconcile is about to create it, and the watch tells us when it has.
            return self._timing.tick
        now = clock.monotonic()
        known = self._recall(deployment)
        demand = self._collector.sum_demand(key, now)
        known = replace(known, written=_expect(known.written, workload, now))
        # What we decided counts, not what somebody else made of it since: that is only set right.
        is_ours = known.workload == workload["metadata"]["uid"]
        asked = known.desired if is_ours and known.desired is not None else _asked(workload)
        counts = _count(workload, self._store.list_pods(key), asked=asked, now=now)
        decision = decide(build_policy(deployment.spec), demand, counts, history=known.history, now=now)
        # Owned by us even where the number is right already: then the reconciler's applies leave it alone.
        is_right = is_scaled(workload) and _asked(workload) == decision.replicas
        is_written = known.written is not None and known.written.replicas == decision.replicas
        if not is_right and not is_written:
            try:
                await self._kube.scale(
                    DEPLOYMENTS, key.namespace, workload["metadata"]["name"], replicas=decision.replicas
                )
            except Refused as error:
                if error.status == 404:
                    return self._timing.tick
                raise
            known = replace(known, written=_Written(workload["metadata"]["uid"], decision.replicas, now))
        known = replace(known, workload=workload["metadata"]["uid"])
        self._conclude(deployment, known, decision, counts, demand, now)
        return self._timing.tick

    def _recall(self, deployment: LLMDeployment) -> _Known:
        known = self._known.get(deployment.key)
        if known is None or known.uid != deployment.uid:
            return _Known(uid=deployment.uid, decisions=tuple(deployment.status.decisions))
        return known

    def _conclude(
        self,
        deployment: LLMDeployment,
        known: _Known,
        decision: Decision,
        counts: ReplicaCounts,
        demand: Demand | None,
        now: float,
    ) -> None:
        """Remember the decision, and tell whoever wants to know where it changed something."""
        key = deployment.key
        is_missing = decision.reason is ScalingReason.SIGNAL_MISSING
        missing_since = (known.missing_since or now) if is_missing else None
        view = self._describe(deployment, decision, missing_for=0.0 if missing_since is None else now - missing_since)
        decisions = known.decisions
        if decision.replicas != counts.asked:
            record = DecisionRecord(
                at=clock.render_time(clock.wall()),
                from_replicas=counts.asked,
                to_replicas=decision.replicas,
                reason=decision.reason,
                message=decision.message,
            )
            decisions = (record, *decisions)[:_KEPT_DECISIONS]
            self._report(deployment, decision, counts)
        self._known[key] = replace(
            known,
            history=decision.history,
            desired=decision.replicas,
            decisions=decisions,
            view=view,
            missing_since=missing_since,
        )
        metrics.DESIRED_REPLICAS.labels(key.namespace, key.name).set(decision.replicas)
        if demand is not None:
            metrics.DEMAND.labels(key.namespace, key.name, "held").set(demand.held)
            metrics.DEMAND.labels(key.namespace, key.name, "in_flight").set(demand.in_flight)
        if (decisions, decision.replicas, view) != (known.decisions, known.desired, known.view):
            self._on_decision(key)

    def _describe(self, deployment: LLMDeployment, decision: Decision, *, missing_for: float) -> tuple[Reason, str]:
        """The condition ScalingActive, in words that stay the same while nothing changes."""
        if decision.reason is ScalingReason.MANUAL:
            return Reason.MANUAL, f"spec.replicas is {decision.replicas}: Lull does not scale until it is removed."
        if missing_for >= self._timing.stale_after:
            silent = ", ".join(self._collector.list_silent(clock.monotonic())) or "none runs"
            return Reason.METRICS_UNAVAILABLE, f"Demand is unknown, as these gateways do not answer: {silent}."
        scaling = deployment.spec.scaling
        return Reason.SCALING, f"Lull keeps between {scaling.min_replicas} and {scaling.max_replicas} replicas."

    def _report(self, deployment: LLMDeployment, decision: Decision, counts: ReplicaCounts) -> None:
        log.info(
            "scaled",
            key=str(deployment.key),
            replicas=decision.replicas,
            before=counts.asked,
            reason=decision.reason,
            message=decision.message,
        )
        metrics.DECISIONS.labels(decision.reason.value).inc()
        self._recorder.record(deployment, _find_event(counts.asked, decision.replicas), decision.message)

    def _forget(self, key: Key) -> None:
        if self._known.pop(key, None) is not None:
            metrics.forget(key.namespace, key.name)


_VIEWS: Final = frozenset({Reason.SCALING, Reason.MANUAL, Reason.METRICS_UNAVAILABLE})


def _find_workload(deployment: LLMDeployment, workloads: tuple[Manifest, ...]) -> Manifest | None:
    pool = deployment.spec.placement.pools[0].name
    name = names.child(deployment.key.name, pool)
    return next((one for one in workloads if one["metadata"]["name"] == name), None)


def _expect(written: _Written | None, workload: Manifest, now: float) -> _Written | None:
    """What we wrote, until the watch shows it or should have; from then on what is there counts."""
    if written is None or written.uid != workload["metadata"]["uid"] or now - written.at > _EXPECT_SECONDS:
        return None
    is_seen = is_scaled(workload) and _asked(workload) == written.replicas
    return None if is_seen else written


def _asked(workload: Manifest) -> int:
    replicas: int = workload["spec"].get("replicas", 1)
    return replicas


def _count(workload: Manifest, pods: tuple[Manifest, ...], *, asked: int, now: float) -> ReplicaCounts:
    """Replicas of one workload."""
    selector = workload["spec"]["selector"]["matchLabels"].items()
    mine = [pod for pod in pods if selector <= pod["metadata"].get("labels", {}).items()]
    existing = [pod for pod in mine if "deletionTimestamp" not in pod["metadata"]]
    ready = [pod for pod in existing if is_ready(pod)]
    age = clock.wall() - max((_ready_time(pod) for pod in ready), default=0.0)
    return ReplicaCounts(
        asked=asked,
        ready=len(ready),
        loading=max(len(existing), asked) - len(ready),
        # Kubernetes' clock is not ours: only the age travels.
        ready_at=now - max(age, 0.0) if ready else None,
    )


def _ready_time(pod: Manifest) -> float:
    times = (
        parse_timestamp(condition["lastTransitionTime"])
        for condition in pod["status"]["conditions"]
        if condition["type"] == "Ready"
    )
    return next(times, 0.0)


def _find_event(before: int, after: int) -> ScaledReason:
    if before == 0:
        return ScaledReason.ACTIVATED
    if after == 0:
        return ScaledReason.SCALED_TO_ZERO
    return ScaledReason.SCALED_UP if after > before else ScaledReason.SCALED_DOWN
