"""Look at demand, decide, split, scale: for each LLMDeployment once a tick, and at once when something happens.

One decision is taken on the replicas of all pools together, and split over the pools afterwards. Everything that it
needs is in memory, so that from a held request to the scaled workload there is one request to the API server for
each pool whose count changes, and nothing else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog

from lull.api import names
from lull.api.quantities import parse_duration
from lull.api.reasons import Reason, ScalingReason
from lull.api.scaling import ScalingMode, SelectPolicy
from lull.api.status import DecisionRecord
from lull.api.timestamps import parse_timestamp
from lull.autoscaler.forecasting import Forecaster
from lull.core.budget import find_cap, find_price, spend
from lull.core.placement import Split, find_capacity, split
from lull.core.planning import is_scaled
from lull.core.scaling import Decision, History, Policy, ReplicaCounts, build_policy, decide
from lull.core.status import ScalingView, is_ready
from lull.doors import clock, metrics
from lull.doors.events import ScaledReason
from lull.doors.kube import DEPLOYMENTS, LEADER_WORKER_SETS, RESOURCES, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lull.api.llmdeployment import Key, LLMDeployment, Manifest
    from lull.api.scaling import ScalingSpec
    from lull.autoscaler.collecting import Collector, Timing
    from lull.core.budget import Cap, Spending
    from lull.core.forecast import Ahead
    from lull.core.schedules import Floor
    from lull.core.signals import Demand
    from lull.doors.events import Recorder
    from lull.doors.kube import Kube
    from lull.doors.store import Store

log = structlog.get_logger(__name__)

_KEPT_DECISIONS: Final = 10
_ASLEEP_TICKS: Final = 10
"""Ticks between looks at what sleeps: there may be thousands of them."""
_EXPECT_SECONDS: Final = 5.0
"""How long the watch may take to show a replica count that we wrote, before what it shows counts again."""


@dataclass(frozen=True, slots=True)
class _Share:
    """What one pool was given."""

    replicas: int
    uid: str | None
    """Of the workload that it is about; None where there was none to write to yet."""
    written_at: float | None = None
    """When it was written, until the watch shows it."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of one LLMDeployment between two looks."""

    uid: str
    decisions: tuple[DecisionRecord, ...]
    history: History | None = None
    desired: int | None = None
    shares: Mapping[str, _Share] = field(default_factory=dict)
    """By pool; empty before the first decision."""
    view: tuple[Reason, str] | None = None
    """Reason and message of the condition ScalingActive."""
    missing_since: float | None = None
    proposed: int | None = None
    """What Shadow last recorded."""
    spending: Spending | None = None
    remark: str = ""
    """What is to be said of the forecast."""


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
        prices: Mapping[str, float] | None = None,
        forecaster: Forecaster | None = None,
    ) -> None:
        """`prices`: of an accelerator-hour by product, for budgets."""
        self._kube = kube
        self._store = store
        self._collector = collector
        self._recorder = recorder
        self._timing = timing
        self._on_decision = on_decision
        self._prices = prices or {}
        self._forecaster = forecaster or Forecaster(None, store=store)
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
        owned = self._store.list_workloads(deployment)
        workloads = _find_workloads(deployment, owned)
        if not workloads:
            # The reconcile is about to create them, and the watch tells us when it has.
            return self._timing.tick
        now = clock.monotonic()
        known = self._recall(deployment)
        asked = _recall_shares(known.shares, deployment, workloads, owned)
        counts = _count(deployment, self._store.list_pods(key), asked=asked, now=now)
        demand = self._collector.sum_demand(key, now)
        known, cap = self._count_cost(deployment, known, counts)
        known, ahead = self._look_ahead(deployment, known)
        policy = _build_policy(deployment, cap, ahead)
        decision = decide(policy, demand, counts, history=known.history, now=now, wall=clock.wall())
        divided = split(decision.replicas, deployment.spec.placement, asked)
        shares = await self._write(key, workloads, divided, known.shares, now)
        if shares is None:
            return self._timing.tick
        self._conclude(deployment, replace(known, shares=shares), decision, divided, counts, demand, now)
        # What sleeps is woken by news; only a schedule, or silence of the gateways, has to be looked for.
        is_asleep = demand is not None and decision.replicas == counts.asked == counts.ready + counts.loading == 0
        return self._timing.tick * (_ASLEEP_TICKS if is_asleep else 1)

    async def _write(
        self, key: Key, workloads: Mapping[str, Manifest], divided: Split, before: Mapping[str, _Share], now: float
    ) -> dict[str, _Share] | None:
        """Give each pool its share; None where a workload went away meanwhile, so that all is to be looked at anew.

        A pool without a workload gets its share when there is one: the others do not wait for it.
        """
        shares = {name: _Share(replicas, uid=None) for name, replicas in divided.counts.items()}
        # More before fewer, so that a replica which moves is replaced before it goes.
        for name, workload in sorted(workloads.items(), key=lambda item: _asked(item[1]) - divided.counts[item[0]]):
            replicas, written_at = divided.counts[name], _expect(before.get(name), workload, now)
            if written_at is None:
                # Owned by us even where the number is right already: then the reconciler's applies leave it alone.
                is_right = is_scaled(workload) and _asked(workload) == replicas
            else:
                is_right = before[name].replicas == replicas
            if not is_right:
                resource = RESOURCES[workload["kind"]]
                try:
                    await self._kube.scale(resource, key.namespace, workload["metadata"]["name"], replicas=replicas)
                except Refused as error:
                    if error.status == 404:
                        return None
                    raise
                written_at = now
            shares[name] = _Share(replicas, workload["metadata"]["uid"], written_at)
        return shares

    def _count_cost(self, deployment: LLMDeployment, known: _Known, counts: ReplicaCounts) -> tuple[_Known, Cap | None]:
        """What replicas have cost since the last look, and how many the budget pays for."""
        spec = deployment.spec
        price = None if spec.scaling.budget is None else find_price(spec, self._prices)
        if price is None:
            return known, None
        wall = clock.wall()
        # What is there costs, be it more than was asked for.
        running = max(counts.asked, counts.ready + counts.loading)
        spending = spend(known.spending, running, price=price, wall=wall)
        cap = find_cap(spec.scaling.budget, price=price, spent=spending.amount, wall=wall)
        return replace(known, spending=spending), cap

    def _look_ahead(self, deployment: LLMDeployment, known: _Known) -> tuple[_Known, Ahead | None]:
        """What earlier days ask for."""
        knowledge = None if known.history is None else known.history.knowledge
        outlook = self._forecaster.look(deployment, knowledge, wall=clock.wall())
        return replace(known, remark=outlook.remark), outlook.ahead

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
        divided: Split,
        counts: ReplicaCounts,
        demand: Demand | None,
        now: float,
    ) -> None:
        """Remember the decision, and tell whoever wants to know where it changed something."""
        key = deployment.key
        is_missing = decision.reason is ScalingReason.SIGNAL_MISSING
        missing_since = (known.missing_since or now) if is_missing else None
        view = self._describe(
            deployment,
            decision.floor,
            remark=known.remark,
            missing_for=0.0 if missing_since is None else now - missing_since,
        )
        decisions, proposed = known.decisions, decision.proposed
        if proposed not in {None, counts.asked, known.proposed}:
            decisions = _record(decisions, decision, counts, to=proposed, message=decision.message)
        if decision.replicas != counts.asked:
            message = decision.message
            if len(divided.counts) > 1:
                message += f"; {divided.message}"
            decisions = _record(decisions, decision, counts, to=decision.replicas, message=message)
            self._report(deployment, decision, message, counts)
        self._known[key] = replace(
            known,
            history=decision.history,
            desired=decision.replicas,
            decisions=decisions,
            view=view,
            missing_since=missing_since,
            proposed=proposed,
        )
        metrics.DESIRED_REPLICAS.labels(key.namespace, key.name).set(decision.replicas)
        if demand is not None:
            metrics.DEMAND.labels(key.namespace, key.name, "held").set(demand.held)
            metrics.DEMAND.labels(key.namespace, key.name, "in_flight").set(demand.in_flight)
        if (decisions, decision.replicas, view) != (known.decisions, known.desired, known.view):
            self._on_decision(key)

    def _describe(
        self, deployment: LLMDeployment, floor: Floor | None, *, remark: str, missing_for: float
    ) -> tuple[Reason, str]:
        """The condition ScalingActive, in words that stay the same while nothing changes."""
        scaling, capacity = deployment.spec.scaling, find_capacity(deployment.spec.placement)
        manual = deployment.spec.replicas
        if manual is not None:
            limited = f" The pools hold {capacity} at most." if capacity is not None and capacity < manual else ""
            return Reason.MANUAL, f"spec.replicas is {manual}: Lull does not scale until it is removed.{limited}"
        if missing_for >= self._timing.stale_after:
            silent = ", ".join(self._collector.list_silent(clock.monotonic())) or "none runs"
            return Reason.METRICS_UNAVAILABLE, f"Demand is unknown, as these gateways do not answer: {silent}."
        if scaling.mode is ScalingMode.SHADOW:
            return Reason.SHADOW, "scaling.mode is Shadow: decisions are recorded and not carried out."
        words = [*_describe_bounds(scaling, capacity, floor), *filter(None, (remark,))]
        if scaling.budget is not None and find_price(deployment.spec, self._prices) is None:
            words.append(
                "The budget is not kept: operator.acceleratorPrices of the chart has no price for the accelerators."
            )
        return Reason.SCALING, " ".join(words)

    def _report(self, deployment: LLMDeployment, decision: Decision, message: str, counts: ReplicaCounts) -> None:
        log.info(
            "scaled",
            key=str(deployment.key),
            replicas=decision.replicas,
            before=counts.asked,
            reason=decision.reason,
            message=message,
        )
        metrics.DECISIONS.labels(decision.reason.value).inc()
        self._recorder.record(deployment, _find_event(counts.asked, decision), message)

    def _forget(self, key: Key) -> None:
        if self._known.pop(key, None) is not None:
            metrics.forget(key.namespace, key.name)


_VIEWS: Final = frozenset({Reason.SCALING, Reason.SHADOW, Reason.MANUAL, Reason.METRICS_UNAVAILABLE})


def _record(
    decisions: tuple[DecisionRecord, ...], decision: Decision, counts: ReplicaCounts, *, to: int, message: str
) -> tuple[DecisionRecord, ...]:
    """The last decisions with this one in front."""
    record = DecisionRecord(
        at=clock.render_time(clock.wall()),
        from_replicas=counts.asked,
        to_replicas=to,
        reason=decision.reason,
        message=message,
    )
    return (record, *decisions)[:_KEPT_DECISIONS]


def _build_policy(deployment: LLMDeployment, cap: Cap | None, ahead: Ahead | None) -> Policy:
    measured = deployment.status.cold_start
    return build_policy(
        deployment.spec, cold_start=None if measured is None else parse_duration(measured.total), cap=cap, ahead=ahead
    )


def _find_workloads(deployment: LLMDeployment, owned: Iterable[Manifest]) -> dict[str, Manifest]:
    """Those workloads of the pools that are there, by pool."""
    nodes = deployment.spec.accelerator.nodes_per_replica
    kind = DEPLOYMENTS.kind if nodes == 1 else LEADER_WORKER_SETS.kind
    pools = {
        names.workload(deployment.key.name, pool.name, nodes=nodes): pool.name
        for pool in deployment.spec.placement.pools
    }
    return {
        pools[workload["metadata"]["name"]]: workload
        for workload in owned
        if workload["kind"] == kind and workload["metadata"]["name"] in pools
    }


def _recall_shares(
    shares: Mapping[str, _Share],
    deployment: LLMDeployment,
    workloads: Mapping[str, Manifest],
    owned: Iterable[Manifest],
) -> dict[str, int]:
    """Replicas by pool that have been asked for, of pools off the list too: what these had, others are to take over.

    What we decided counts, not what somebody else made of it since: that is only set right. A workload that we have
    not written to, or that was made anew since, speaks for itself.
    """
    if not shares:
        # A restart: whatever is there was asked for, by us or by nobody.
        return {_pool(workload): _asked(workload) for workload in owned} | {
            name: _asked(workload) for name, workload in workloads.items()
        }
    listed = {pool.name for pool in deployment.spec.placement.pools}
    asked = {}
    for name in listed | shares.keys():
        share, workload = shares.get(name), workloads.get(name)
        if share is not None and (workload is None or share.uid in {None, workload["metadata"]["uid"]}):
            asked[name] = share.replicas
        elif workload is not None:
            asked[name] = _asked(workload)
    return asked


def _expect(share: _Share | None, workload: Manifest, now: float) -> float | None:
    """When what we wrote was written, until the watch shows it or should have; from then on what is there counts."""
    if share is None or share.written_at is None or share.uid != workload["metadata"]["uid"]:
        return None
    is_seen = is_scaled(workload) and _asked(workload) == share.replicas
    return None if is_seen or now - share.written_at > _EXPECT_SECONDS else share.written_at


def _asked(workload: Manifest) -> int:
    replicas: int = workload["spec"].get("replicas", 1)
    return replicas


def _pool(manifest: Manifest) -> str:
    pool: str = (manifest["metadata"].get("labels") or {}).get(names.LABEL_POOL, "")
    return pool


def _count(
    deployment: LLMDeployment, pods: Iterable[Manifest], *, asked: Mapping[str, int], now: float
) -> ReplicaCounts:
    """Replicas over all pools; of a group its leader stands for it."""
    # Like a ReplicaSet, count neither those that go nor those that have ended, such as evicted ones.
    existing = [
        pod
        for pod in pods
        if pod["metadata"]["labels"].get(names.LABEL_COMPONENT) == names.COMPONENT_ENGINE
        and "deletionTimestamp" not in pod["metadata"]
        and (pod.get("status") or {}).get("phase") not in {"Failed", "Succeeded"}
    ]
    ready = [pod for pod in existing if is_ready(pod)]
    there, fit = Counter(map(_pool, existing)), Counter(map(_pool, ready))
    listed = {pool.name for pool in deployment.spec.placement.pools}
    age = clock.wall() - max((_ready_time(pod) for pod in ready), default=0.0)
    return ReplicaCounts(
        asked=sum(asked.values()),
        ready=len(ready),
        # By pool: one that has too many does not make up for one that has too few.
        loading=sum(max(there[name], asked.get(name, 0)) - fit[name] for name in listed),
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


def _describe_bounds(scaling: ScalingSpec, capacity: int | None, floor: Floor | None) -> Iterator[str]:
    yield f"Lull keeps between {scaling.min_replicas} and {scaling.max_replicas} replicas."
    if floor is not None:
        yield f'The schedule "{floor.cron}" ({floor.timezone}) keeps {floor.replicas} now.'
    if capacity is not None and capacity < scaling.max_replicas:
        yield f"The pools hold {capacity} at most."
    if scaling.behavior.scale_up.select_policy is SelectPolicy.DISABLED:
        yield "None is added while behavior.scaleUp is Disabled, not even to wake the model."
    if scaling.behavior.scale_down.select_policy is SelectPolicy.DISABLED:
        yield "None is removed while behavior.scaleDown is Disabled."


def _find_event(before: int, decision: Decision) -> ScaledReason:
    if decision.reason is ScalingReason.ACTIVATED:
        return ScaledReason.ACTIVATED
    if decision.replicas == 0:
        return ScaledReason.SCALED_TO_ZERO
    return ScaledReason.SCALED_UP if decision.replicas > before else ScaledReason.SCALED_DOWN
