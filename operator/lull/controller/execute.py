"""Carry out a plan: apply what it applies, delete what it deletes, and send nothing that is known to change nothing."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import orjson
import structlog

from lull.core.planning import identify
from lull.doors import metrics
from lull.doors.kube import RESOURCES, Conflict, Transient

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import Key, Manifest
    from lull.core.observed import Observed
    from lull.core.planning import Identity, Plan
    from lull.doors.kube import Kube

log = structlog.get_logger(__name__)


class NameTaken(Transient):
    """An object of a new child's name exists already."""


class Executor:
    """Remembers what it applied, and what each child looked like afterwards.

    A child's resource version would not do: it moves with every change of status, which is none of ours.
    """

    def __init__(self, kube: Kube, *, learn: Callable[[Manifest], None]) -> None:
        """`learn` is told what the API server answers to each write."""
        self._kube = kube
        self._learn = learn
        self._applied: dict[Key, dict[Identity, tuple[str, str]]] = {}

    async def execute(self, key: Key, plan: Plan, observed: Observed) -> bool:
        """Carry a plan out; whether that changed anything. NameTaken leaves no new child, thus nothing half-built."""
        has_changed = bool(plan.delete)
        looks = {identify(child): _look(child) for child in (*observed.workloads, *observed.others)}
        applied = self._applied.setdefault(key, {})
        born: list[Manifest] = []
        for manifest in plan.apply:
            identity, digest = identify(manifest), _digest(manifest)
            if identity in looks and applied.get(identity) == (looks[identity], digest):
                continue
            force = identity not in plan.yielding
            answer = await (
                self._kube.apply(manifest, force=force) if identity in looks else self._bear(manifest, born)
            )
            self._learn(answer)
            look = _look(answer)
            applied[identity] = (look, digest)
            if look != looks.get(identity):
                has_changed = True
                metrics.APPLIED.labels(manifest["kind"]).inc()
                log.info("applied", key=str(key), kind=identity[0], name=identity[1])
        for manifest in plan.delete:
            await self._delete(manifest)
            applied.pop(identify(manifest), None)
            log.info("deleted", key=str(key), kind=manifest["kind"], name=manifest["metadata"]["name"])
        return has_changed

    async def _bear(self, manifest: Manifest, born: list[Manifest]) -> Manifest:
        """Create a child; where its name is taken, take back those born before it."""
        try:
            born.append(await self._kube.apply_new(manifest))
        except Conflict as error:
            for child in born:
                await self._delete(child)
            raise NameTaken(str(error)) from error
        return born[-1]

    async def _delete(self, child: Manifest) -> None:
        metadata = child["metadata"]
        await self._kube.delete(RESOURCES[child["kind"]], metadata["namespace"], metadata["name"], uid=metadata["uid"])
        metrics.DELETED.labels(child["kind"]).inc()

    def forget(self, key: Key) -> None:
        """Drop what is remembered of an LLMDeployment that is gone."""
        self._applied.pop(key, None)


def _look(child: Manifest) -> str:
    """Digest of what an apply could change, or somebody could have changed since."""
    metadata = child["metadata"]
    kept = [metadata.get("uid"), metadata.get("labels"), metadata.get("annotations"), metadata.get("ownerReferences")]
    return _digest({"metadata": kept, "spec": child.get("spec", {})})


def _digest(manifest: Manifest) -> str:
    """Digest of a child less its replica count, which is born with the child and then the autoscaler's."""
    spec = {field: value for field, value in manifest["spec"].items() if field != "replicas"}
    return sha256(orjson.dumps({**manifest, "spec": spec}, option=orjson.OPT_SORT_KEYS)).hexdigest()
