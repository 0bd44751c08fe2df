"""One LLMDeployment, from what is observed to what is desired: observe → build → plan → execute → status."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from lull.api.llmdeployment import InvalidSpec, parse_llmdeployment
from lull.api.reasons import ConditionType, Reason
from lull.controller.execute import Executor
from lull.controller.observe import observe, snapshot
from lull.core.manifests import build
from lull.core.planning import plan
from lull.core.status import REMEDIES, summarize, summarize_unreadable
from lull.doors import clock, metrics
from lull.doors.kube import LLMDEPLOYMENTS, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import Key, LLMDeployment, Manifest
    from lull.core.manifests import BuildSettings
    from lull.core.observed import Observed
    from lull.core.status import AdapterView, ScalingView
    from lull.doors.events import Recorder
    from lull.doors.kube import Kube
    from lull.doors.store import Store

log = structlog.get_logger(__name__)

_FOREIGN_SECONDS: Final = 15.0
"""How soon to look again whether a name that is taken has become free."""
_WRITTEN_SECONDS: Final = 0.25
"""How soon to look at what became of what was written: until then the autoscaler has decided, too."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a reconcile needs to know that the object and its children do not say."""

    find_conflict: Callable[[Key], str | None]
    """Why an LLMDeployment's names are another's."""
    view_scaling: Callable[[LLMDeployment], ScalingView]
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
        self._resync_seconds = resync_seconds

    async def reconcile(self, key: Key) -> float | None:
        """Bring the children to what the spec says, then status to what is there; seconds until the next look."""
        manifest = self._store.find_manifest(key)
        if manifest is None or "deletionTimestamp" in manifest["metadata"]:
            # Kubernetes deletes the children by their owner references, with or without us.
            self._executor.forget(key)
            return None
        due = self._resync_seconds * random.uniform(0.8, 1.2)  # noqa: S311  spreads resyncs only
        try:
            deployment = self._store.find_deployment(key) or parse_llmdeployment(manifest)
        except InvalidSpec as error:
            await self._write_status(key, manifest, summarize_unreadable(manifest, str(error), now=clock.wall()))
            return due
        try:
            desired = build(deployment, self._settings)
            observed = await observe(self._kube, self._store, deployment, desired)
            if await self._executor.execute(key, plan(desired, observed), observed):
                return _WRITTEN_SECONDS
            problem = None
        except InvalidSpec as error:
            observed, problem = snapshot(self._store, deployment), str(error)
        except Refused as error:
            if error.status not in {400, 422}:
                raise
            # The spec passed our checks and makes a child that Kubernetes does not take: only a change of it helps.
            observed = snapshot(self._store, deployment)
            problem = f"Kubernetes refuses what the spec asks for: {error.message}"
        await self._report(deployment, manifest, observed, problem)
        # What is not ours tells nobody here when it goes.
        return min(due, _FOREIGN_SECONDS) if observed.foreign else due

    async def _report(
        self, deployment: LLMDeployment, manifest: Manifest, observed: Observed, problem: str | None
    ) -> None:
        """Say in status what is there."""
        key = deployment.key
        status = summarize(
            deployment,
            observed,
            scaling=self._surroundings.view_scaling(deployment),
            adapters=self._surroundings.view_adapters(deployment),
            problem=problem,
            conflict=self._surroundings.find_conflict(key),
            now=clock.wall(),
        )
        if await self._write_status(key, manifest, status):
            self._report_troubles(deployment, status)
        metrics.READY_REPLICAS.labels(key.namespace, key.name).set(status["readyReplicas"])

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
        """Say in an Event what went wrong since the last status."""
        known = {(condition.type, condition.reason) for condition in deployment.status.conditions}
        for condition in status["conditions"]:
            reason = Reason(condition["reason"])
            # The other conditions repeat what these three found.
            first_hand = condition["type"] in {
                ConditionType.SPEC_VALID,
                ConditionType.WORKLOADS_READY,
                ConditionType.SCALING_ACTIVE,
            }
            if first_hand and reason in REMEDIES and (condition["type"], reason.value) not in known:
                self._recorder.record(deployment, reason, condition["message"], warning=True)
