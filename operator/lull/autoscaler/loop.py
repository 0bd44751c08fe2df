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
from lull.api.quantities import render_duration
from lull.api.reasons import ConditionType, Reason, ScalingReason
from lull.api.scaling import ScalingMode, SelectPolicy
from lull.api.status import DecisionRecord
from lull.api.timestamps import parse_timestamp
from lull.autoscaler import figures
from lull.autoscaler.forecasting import Forecaster
from lull.core.budget import catch_up, find_cap, spend
from lull.core.keeping import (
    NOTHING,
    Kept,
    doubt,
    find_basis,
    is_wake,
    recall_knowledge,
    recall_spending,
    update_cost,
    update_learnt,
)
from lull.core.loading import find_patience
from lull.core.placement import Split, find_capacity, split
from lull.core.planning import is_scaled
from lull.core.prices import find_price
from lull.core.replicas import condition_time, exists, is_asleep, is_ready, pool_of
from lull.core.scaling import Decision, History, Policy, ReplicaCounts, begin, build_policy, decide
from lull.core.signals import find_latest
from lull.core.sleeping import Quiet, Rest, choose_rest
from lull.core.status import ScalingView
from lull.doors import clock, metrics
from lull.doors.events import ScaledReason
from lull.doors.kube import DEPLOYMENTS, LEADER_WORKER_SETS, RESOURCES, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lull.api.llmdeployment import Key, LLMDeployment, Manifest
    from lull.api.scaling import ScalingSpec
    from lull.autoscaler.collecting import Collector, Timing
    from lull.autoscaler.scraping import Scraper
    from lull.core.budget import Cap, Spending
    from lull.core.forecast import Ahead
    from lull.core.prices import ReplicaPrice
    from lull.core.schedules import Floor
    from lull.core.signals import Demand
    from lull.doors.events import Recorder
    from lull.doors.kube import Kube
    from lull.doors.prices import Prices
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
    rest: Rest = Rest.STAY
    price: ReplicaPrice | None = None
    spending: Spending | None = None
    """In the currency of `price`."""
    cap: Cap | None = None
    kept: Kept = NOTHING
    told: Kept | None = None
    """What was last told of it."""
    basis: tuple[int, str] = (-1, "")
    """Generation, and digest of what the knowledge in `history` is about."""
    woken_at: float | None = None
    reason: ScalingReason | None = None
    """Of the last decision, as the next."""
    stuck: int = 0
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
        on_rest: Callable[[Key], None] | None = None,
        prices: Prices,
        scraper: Scraper | None = None,
        forecaster: Forecaster | None = None,
    ) -> None:
        """`on_rest`: replicas are to sleep, or to wake; `scraper`: None where engines are not asked."""
        self._kube = kube
        self._store = store
        self._collector = collector
        self._recorder = recorder
        self._timing = timing
        self._on_decision = on_decision
        self._on_rest = on_rest or (lambda _: None)
        self._prices = prices
        self._scraper = scraper
        self._forecaster = forecaster or Forecaster(None, store=store)
        self._known: dict[Key, _Known] = {}

    def view(self, deployment: LLMDeployment) -> ScalingView:
        """What status is to say about scaling."""
        known = self._known.get(deployment.key)
        if known is None or known.uid != deployment.uid or known.view is None:
            # Not looked at yet: repeat what status says, so that a restart of the operator changes nothing in it.
            said = deployment.status.find_condition(ConditionType.SCALING_ACTIVE)
            reason = Reason(said.reason) if said is not None and said.reason in _VIEWS else Reason.SCALING
            decisions = tuple(deployment.status.decisions)
            return ScalingView(None, reason, said.message if said else "", decisions, _recall_kept(deployment))
        return ScalingView(known.desired, *known.view, known.decisions, known.kept)

    def find_rest(self, key: Key) -> Rest:
        """Whether the replicas of an LLMDeployment are to sleep."""
        known = self._known.get(key)
        return Rest.STAY if known is None else known.rest

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
        known = _follow_wake(self._recall(deployment), deployment, now)
        pods = _list_existing(self._store.list_pods(key))
        asked = _recall_shares(known.shares, deployment, workloads, owned)
        demand = self._sum_demand(key, pods, now)
        counts = _count(deployment, pods, asked=asked, demand=demand, now=now)
        known, cap = self._count_cost(deployment, known, counts, pods)
        known = _recall_learnt(deployment, known, counts, now)
        known, ahead = self._look_ahead(deployment, known)
        policy = _build_policy(deployment, known, cap, ahead)
        decision = decide(policy, demand, counts, history=known.history, now=now, wall=clock.wall())
        rest = self._choose_rest(deployment, known, demand, decision.history, counts, now)
        divided = split(decision.replicas, deployment.spec.placement, asked)
        shares = await self._write(key, workloads, divided, known.shares, now)
        if shares is None:
            return self._timing.tick
        known = replace(known, shares=shares, cap=cap, rest=rest)
        self._conclude(deployment, known, decision, divided, counts, demand, now)
        # What sleeps is woken by news; only a schedule, or silence of the gateways, has to be looked for.
        is_asleep = demand is not None and decision.replicas == counts.asked == counts.ready + counts.loading == 0
        return self._timing.tick * (_ASLEEP_TICKS if is_asleep else 1)

    def _sum_demand(self, key: Key, pods: Iterable[Manifest], now: float) -> Demand | None:
        demand = self._collector.sum_demand(key, now)
        if self._scraper is None:
            return demand
        awake = sum(is_ready(pod) and not is_asleep(pod) for pod in pods)
        return self._scraper.merge(key, demand, ready=awake, now=now)

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

    def _count_cost(
        self, deployment: LLMDeployment, known: _Known, counts: ReplicaCounts, pods: Iterable[Manifest]
    ) -> tuple[_Known, Cap | None]:
        """What replicas have cost since the last look, and how many the budget pays for."""
        price = find_price(deployment.spec, self._prices.list())
        if price is None:
            return replace(known, price=None, spending=None, kept=replace(known.kept, cost=None)), None
        wall, spending = clock.wall(), known.spending
        if known.price is None or known.price.currency != price.currency:
            spending = recall_spending(known.kept.cost, currency=price.currency)
            if spending is not None:
                starts = map(_created_time, pods)
                spending = catch_up(spending, starts, price=price.amount, wall=wall)
        spending = spend(spending, counts.paid, price=price.amount, wall=wall)
        cost = update_cost(known.kept.cost, spending, price, replicas=counts.paid, wall=wall)
        cap = find_cap(deployment.spec.scaling.budget, price=price.amount, spent=spending.amount, wall=wall)
        if cap is not None:
            cap = replace(cap, message=f"{cap.message}, {price.words}")
        return replace(known, price=price, spending=spending, kept=replace(known.kept, cost=cost)), cap

    def _choose_rest(
        self,
        deployment: LLMDeployment,
        known: _Known,
        demand: Demand | None,
        history: History,
        counts: ReplicaCounts,
        now: float,
    ) -> Rest:
        """Whether its replicas are to sleep; told at once, as somebody may wait for them."""
        # Whoever sets spec.replicas decides by himself what runs. Decisions take no note of a wake without a gateway.
        woken_at = known.woken_at if deployment.spec.replicas is None else None
        quiet = Quiet(find_latest(history.last_request_at, woken_at), history.since, counts.ready_at)
        rest = choose_rest(deployment.spec, demand, quiet, now=now, wall=clock.wall())
        if rest is not known.rest:
            self._known[deployment.key] = replace(known, rest=rest)
            self._on_rest(deployment.key)
        return rest

    def _look_ahead(self, deployment: LLMDeployment, known: _Known) -> tuple[_Known, Ahead | None]:
        """What earlier days ask for."""
        knowledge = None if known.history is None else known.history.knowledge
        outlook = self._forecaster.look(deployment, knowledge, wall=clock.wall())
        return replace(known, remark=outlook.remark), outlook.ahead

    def _recall(self, deployment: LLMDeployment) -> _Known:
        known = self._known.get(deployment.key)
        if known is None or known.uid != deployment.uid:
            return _Known(
                uid=deployment.uid, decisions=tuple(deployment.status.decisions), kept=_recall_kept(deployment)
            )
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
            deployment, known, decision, missing_for=0.0 if missing_since is None else now - missing_since
        )
        learnt = update_learnt(known.kept.learnt, decision.history.knowledge, basis=known.basis[1], wall=clock.wall())
        kept = replace(known.kept, learnt=learnt)
        decisions, proposed = known.decisions, decision.proposed
        if proposed not in {None, counts.asked, known.proposed}:
            decisions = _record(decisions, decision, counts, to=proposed, message=decision.message)
        if decision.replicas != counts.asked:
            message = decision.message
            if len(divided.counts) > 1:
                message += f"; {divided.message}"
            decisions = _record(decisions, decision, counts, to=decision.replicas, message=message)
            self._report(deployment, decision, message, counts)
        elif decision.reason is ScalingReason.AT_BUDGET is not known.reason:
            # In words that stay the same, so that they are not said again and again.
            message = f"More replicas are wanted than scaling.budget pays for: {decision.replicas}."
            self._recorder.record(deployment, ScaledReason.AT_BUDGET, message, warning=True)
        if decision.stuck and not known.stuck:
            message = f"{_describe_stuck(deployment, decision.stuck)} WorkloadsReady says what is wrong."
            self._recorder.record(deployment, ScaledReason.STUCK, message, warning=True)
        self._known[key] = replace(
            known,
            history=decision.history,
            desired=decision.replicas,
            decisions=decisions,
            view=view,
            missing_since=missing_since,
            proposed=proposed,
            kept=kept,
            told=kept,
            reason=decision.reason,
            stuck=decision.stuck,
        )
        figures.publish(key, decision, demand, counts, figures.Money(known.cap, known.price, known.spending))
        if decision.reason is not known.reason:
            metrics.show(metrics.SCALING_REASON, decision.reason, *key)
        if (decisions, decision.replicas, view, kept) != (known.decisions, known.desired, known.view, known.told):
            self._on_decision(key)

    def _describe(
        self, deployment: LLMDeployment, known: _Known, decision: Decision, *, missing_for: float
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
        words = [*_describe_bounds(scaling, capacity, decision.floor), *filter(None, (known.remark,))]
        if decision.stuck:
            words.append(_describe_stuck(deployment, decision.stuck))
        if scaling.budget is not None and known.price is None:
            words.append(
                "The budget is not kept: operator.acceleratorPrices of the chart has no price for the accelerators."
            )
        elif scaling.budget is not None and known.price is not None:
            amount = f"{known.price.amount:g} {known.price.currency}"
            words.append(f"The budget is kept at {amount} an hour for a replica, {known.price.words}.")
            if known.cap is not None and known.cap.replicas < scaling.max_replicas:
                words.append(f"It pays for {known.cap.replicas} at most.")
        if deployment.wake and not is_wake(deployment.wake):
            words.append(
                f"The annotation {names.ANNOTATION_WAKE} is no time and wakes nothing: write for example "
                "2026-11-21T14:02:11Z, another one each time."
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


def _build_policy(deployment: LLMDeployment, known: _Known, cap: Cap | None, ahead: Ahead | None) -> Policy:
    policy = build_policy(deployment.spec, cold_start=deployment.cold_start, cap=cap, ahead=ahead)
    return replace(policy, woken_at=known.woken_at)


def _recall_kept(deployment: LLMDeployment) -> Kept:
    status = deployment.status
    return Kept(status.cost, status.learnt, status.wake or "")


def _recall_learnt(deployment: LLMDeployment, known: _Known, counts: ReplicaCounts, now: float) -> _Known:
    """Take up what status says of a replica after a restart, and doubt it where the spec makes other pods."""
    generation, basis = known.basis
    if generation == deployment.generation:
        return known
    found = find_basis(deployment)
    history = known.history
    if history is None:
        knowledge = recall_knowledge(known.kept.learnt, basis=found, ready=counts.ready, now=now)
        history = begin(counts, now, knowledge=knowledge)
    elif found != basis:
        history = replace(history, knowledge=doubt(history.knowledge))
    return replace(known, history=history, basis=(deployment.generation, found))


def _follow_wake(known: _Known, deployment: LLMDeployment, now: float) -> _Known:
    """Take a value of the annotation that was not followed yet for a request that comes now.

    By our clock, as nobody knows how wrong that of whoever wrote it is.
    """
    wake = deployment.wake
    if wake == known.kept.wake or not is_wake(wake):
        return known
    return replace(known, woken_at=now, kept=replace(known.kept, wake=wake))


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
        return {pool_of(workload): _asked(workload) for workload in owned} | {
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


def _list_existing(pods: Iterable[Manifest]) -> list[Manifest]:
    """The pods that stand for replicas: of a group its leader."""
    return [
        pod
        for pod in pods
        if exists(pod) and pod["metadata"]["labels"].get(names.LABEL_COMPONENT) == names.COMPONENT_ENGINE
    ]


def _count(
    deployment: LLMDeployment,
    existing: list[Manifest],
    *,
    asked: Mapping[str, int],
    demand: Demand | None,
    now: float,
) -> ReplicaCounts:
    """Replicas over all pools; one that wakes up is on its way, like one that loads."""
    ready = [pod for pod in existing if is_ready(pod)]
    there, fit = Counter(map(pool_of, existing)), Counter(map(pool_of, ready))
    listed = {pool.name for pool in deployment.spec.placement.pools}
    wall = clock.wall()
    age = wall - max((condition_time(pod, "Ready") or 0.0 for pod in ready), default=0.0)
    created = [_created_time(pod) for pod in existing if not is_ready(pod) and pool_of(pod) in listed]
    waking = sum(map(is_asleep, ready)) if demand is not None and demand.is_any else 0
    return ReplicaCounts(
        asked=sum(asked.values()),
        ready=len(ready) - waking,
        # By pool: one that has too many does not make up for one that has too few.
        loading=sum(max(there[name], asked.get(name, 0)) - fit[name] for name in listed) + waking,
        # Kubernetes' clock is not ours: only the age travels.
        ready_at=now - max(age, 0.0) if ready else None,
        made_at=tuple(now - max(wall - at, 0.0) for at in created),
    )


def _created_time(pod: Manifest) -> float:
    return parse_timestamp(pod["metadata"]["creationTimestamp"])


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


def _describe_stuck(deployment: LLMDeployment, count: int) -> str:
    patience = render_duration(find_patience(deployment.cold_start))
    which = "1 replica has" if count == 1 else f"{count} replicas have"
    return f"{which} not become ready within {patience}: scaling down does not wait for that."


def _find_event(before: int, decision: Decision) -> ScaledReason:
    if decision.reason in {ScalingReason.ACTIVATED, ScalingReason.WOKEN}:
        return ScaledReason.ACTIVATED
    if decision.replicas == 0:
        return ScaledReason.SCALED_TO_ZERO
    return ScaledReason.SCALED_UP if decision.replicas > before else ScaledReason.SCALED_DOWN
