"""One LLMDeployment, from what is observed to what is desired: observe → build → plan → execute → status."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from lull.api.llmdeployment import InvalidSpec, parse_llmdeployment
from lull.api.reasons import ConditionType, Reason
from lull.controller.execute import Executor, NameTaken
from lull.controller.observe import observe, snapshot
from lull.core.manifests import build
from lull.core.nodes import UNCHECKED, check_nodes
from lull.core.planning import plan
from lull.core.rollout import choose_strategies, find_next_look
from lull.core.status import REMEDIES, Problem, summarize, summarize_unreadable
from lull.core.troubles import find_due
from lull.doors import clock, metrics
from lull.doors.kube import LEADER_WORKER_SETS, LLMDEPLOYMENTS, NODES, POD_MONITORS, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import Key, LLMDeployment, Manifest
    from lull.core.manifests import BuildSettings
    from lull.core.nodes import NodeCheck
    from lull.core.observed import Observed
    from lull.core.status import AdapterView, ScalingView
    from lull.doors.events import Recorder
    from lull.doors.kube import Kube
    from lull.doors.store import Store

log = structlog.get_logger(__name__)

_SOON_SECONDS: Final = 15.0
"""How soon to look again for what nobody tells: a name that has become free, a node that has come."""
_OF_THE_CLUSTER: Final = frozenset({Reason.ACCELERATORS_EXCEED_NODES, Reason.LEADER_WORKER_SET_MISSING})
"""Refusals that another cluster would not make, so that this one may stop to."""
_BORN_SECONDS: Final = 0.25
"""How soon after its children's birth an LLMDeployment gets its first status: then the autoscaler has decided, too."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a reconcile needs to know that the object and its children do not say."""

    find_conflict: Callable[[Key], str | None]
    """Why an LLMDeployment's names are another's."""
    view_scaling: Callable[[LLMDeployment], ScalingView]
    nodes_autoscaled: bool
    """Whether nodes are added where pods need them."""
    gateway_url: str
    """Where clients reach the models."""
    view_adapters: Callable[[LLMDeployment], tuple[AdapterView, ...]]


class Reconciler:
    """The work of the controller's queue."""

    def __init__(
        self,
        kube: Kube,
        *,
        store: Store,
        settings: BuildSettings,
        surroundings: Surroundings,
        recorder: Recorder,
        resync_seconds: float,
    ) -> None:
        self._kube = kube
        self._store = store
        self._settings = settings
        self._surroundings = surroundings
        self._recorder = recorder
        self._executor = Executor(kube, learn=store.learn)
        self._wary: set[Key] = set()
        """Those of which a child's name was found taken."""
        self._resync_seconds = resync_seconds

    async def reconcile(self, key: Key) -> float | None:
        """Bring the children to what the spec says, then status to what is there; seconds until the next look."""
        manifest = self._store.find_manifest(key)
        if manifest is None or "deletionTimestamp" in manifest["metadata"]:
            # Kubernetes deletes the children by their owner references, with or without us.
            self._executor.forget(key)
            self._wary.discard(key)
            return None
        due = self._resync_seconds * random.uniform(0.8, 1.2)  # noqa: S311  spreads resyncs only
        try:
            deployment = self._store.find_deployment(key) or parse_llmdeployment(manifest)
        except InvalidSpec as error:
            await self._write_status(key, manifest, summarize_unreadable(manifest, str(error), now=clock.wall()))
            return due
        nodes = UNCHECKED
        try:
            desired = build(deployment, self._read_settings())
            nodes = self._check_nodes(deployment, desired)
            observed, has_changed = await self._follow_spec(deployment, desired)
            if has_changed and not deployment.status.conditions:
                return _BORN_SECONDS
            if has_changed:
                observed = snapshot(self._store, deployment)
            problem = None
        except InvalidSpec as error:
            observed, problem = snapshot(self._store, deployment), Problem(error.reason, str(error))
        except Refused as error:
            if error.status not in {400, 422}:
                raise
            # The spec passed our checks and makes a child that Kubernetes does not take: only a change of it helps.
            observed = snapshot(self._store, deployment)
            problem = Problem(Reason.INVALID_SPEC, f"Kubernetes refuses what the spec asks for: {error.message}")
        now = clock.wall()
        await self._report(deployment, manifest, observed, nodes, problem, now=now)
        # What is not ours tells nobody here when it comes or goes, and time tells nobody at all.
        if observed.foreign or (problem is not None and problem.reason in _OF_THE_CLUSTER):
            due = min(due, _SOON_SECONDS)
        looks = (find_due(observed.members, now), find_next_look(deployment, observed, now=now))
        return min(due, *(look if look is not None else due for look in looks))

    def _read_settings(self) -> BuildSettings:
        """The settings, with what the cluster is known to serve by now."""
        return replace(
            self._settings,
            serves_groups=self._store.serves(LEADER_WORKER_SETS.kind),
            serves_pod_monitors=self._store.serves(POD_MONITORS.kind),
        )

    def _check_nodes(self, deployment: LLMDeployment, desired: tuple[Manifest, ...]) -> NodeCheck:
        """What the nodes are to the pods; InvalidSpec where they never could run there."""
        seen = self._store.list_nodes() if self._store.serves(NODES.kind) else None
        nodes = check_nodes(deployment, desired, seen, autoscaled=self._surroundings.nodes_autoscaled)
        if nodes.refusal is not None:
            raise InvalidSpec(nodes.refusal, Reason.ACCELERATORS_EXCEED_NODES)
        return nodes

    async def _follow_spec(self, deployment: LLMDeployment, desired: tuple[Manifest, ...]) -> tuple[Observed, bool]:
        """Write the children; what was observed before, and whether anything was changed."""
        key = deployment.key
        is_wary = key in self._wary
        observed = await observe(self._kube, self._store, deployment, desired, is_wary=is_wary)
        try:
            strategies = choose_strategies(deployment, observed, now=clock.wall())
            has_changed = await self._executor.execute(key, plan(desired, observed, strategies), observed)
        except NameTaken:
            self._wary.add(key)
            if is_wary:
                raise
            return await self._follow_spec(deployment, desired)
        if not observed.foreign:
            self._wary.discard(key)
        return observed, has_changed

    async def _report(
        self,
        deployment: LLMDeployment,
        manifest: Manifest,
        observed: Observed,
        nodes: NodeCheck,
        problem: Problem | None,
        *,
        now: float,
    ) -> None:
        """Say in status what is there."""
        key = deployment.key
        status = summarize(
            deployment,
            observed,
            scaling=self._surroundings.view_scaling(deployment),
            nodes=nodes,
            adapters=self._surroundings.view_adapters(deployment),
            problem=problem,
            conflict=self._surroundings.find_conflict(key),
            gateway_url=self._surroundings.gateway_url,
            now=now,
        )
        # What is not said any more goes: a merge patch leaves what it does not name.
        if await self._write_status(key, manifest, {**dict.fromkeys(_PASSING), **status}):
            self._report_troubles(deployment, status)
        metrics.READY_REPLICAS.labels(key.namespace, key.name).set(status["readyReplicas"])
        metrics.ASLEEP_REPLICAS.labels(key.namespace, key.name).set(status["asleepReplicas"])

    async def _write_status(self, key: Key, manifest: Manifest, status: Manifest) -> bool:
        """Write what differs from what is there; whether anything did."""
        present = manifest.get("status") or {}
        changed = {field: value for field, value in status.items() if present.get(field) != value}
        if not changed:
            return False
        self._store.learn(await self._kube.patch_status(LLMDEPLOYMENTS, manifest, changed))
        metrics.STATUS_WRITTEN.inc()
        log.info("status written", key=str(key), summary=status.get("summary"), fields=sorted(changed))
        return True

    def _report_troubles(self, deployment: LLMDeployment, status: Manifest) -> None:
        """Say in an Event what went wrong since the last status: once for each reason that it did not give."""
        known = {condition.reason for condition in deployment.status.conditions}
        if deployment.status.observed_generation == deployment.generation:
            # Nodes come and go; that a pool lacks them is news when the spec is.
            known.add(Reason.NO_MATCHING_NODE)
        for condition in status["conditions"]:
            reason = Reason(condition["reason"])
            if condition["type"] in _FIRST_HAND and reason in REMEDIES and reason not in known:
                known.add(reason)
                self._recorder.record(deployment, reason, condition["message"], warning=True)


_PASSING: Final = ("cost", "learnt")
"""Fields of status that may have nothing to say."""
_FIRST_HAND: Final = frozenset(
    {
        ConditionType.SPEC_VALID,
        ConditionType.WORKLOADS_READY,
        ConditionType.ADAPTERS_READY,
        ConditionType.SPOT_AVAILABLE,
        ConditionType.SCALING_ACTIVE,
    }
)
"""Conditions that find something; the others repeat it."""
