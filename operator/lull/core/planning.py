"""From desired and observed to what must be written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.quantities import parse_quantity
from lull.core.rollout import apply_strategy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lull.api.llmdeployment import Manifest
    from lull.core.observed import Observed
    from lull.core.rollout import Strategy


Identity = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    apply: tuple[Manifest, ...]
    """Full objects for server-side apply, in order."""
    yielding: frozenset[Identity]
    """What to apply without force: children that are not there yet, or whose replica count the autoscaler may be
    taking over just now. Where somebody was faster, the API server refuses, and the next round sees what they did."""
    delete: tuple[Manifest, ...]
    """Owned objects, as observed, that are no longer wanted."""


_TEMPLATES: Final = {"Deployment": "template", "LeaderWorkerSet": "leaderWorkerTemplate"}
"""Where each kind of workload keeps what its pods are made from."""
_PARTS: Final = {
    "Deployment": {"metadata", "spec"},
    "LeaderWorkerSet": {"size", "leaderTemplate", "workerTemplate"},
}
"""What that has at least."""


def plan(
    desired: tuple[Manifest, ...], observed: Observed, strategies: Mapping[str, Strategy] = MappingProxyType({})
) -> Plan:
    """Apply everything desired; delete what is owned but no longer wanted; nothing while a child's name is taken.

    `strategies` tells by a workload's name how its pods are replaced, where that is not as the spec says.
    """
    if observed.foreign:
        return Plan(apply=(), yielding=frozenset(), delete=())
    owned = {identify(manifest): manifest for manifest in (*observed.workloads, *observed.others)}
    wanted = {identify(manifest) for manifest in desired}
    followed = tuple(_follow(manifest, owned.get(identify(manifest)), strategies) for manifest in desired)
    return Plan(
        apply=followed,
        yielding=frozenset(
            identify(manifest)
            for manifest in followed
            if identify(manifest) not in owned or "replicas" in manifest["spec"]
        ),
        delete=tuple(
            manifest
            for identity, manifest in owned.items()
            if identity not in wanted and "deletionTimestamp" not in manifest["metadata"]
        ),
    )


def identify(manifest: Manifest) -> Identity:
    """Kind and name: what tells one child of an LLMDeployment from another."""
    return manifest["kind"], manifest["metadata"]["name"]


def is_scaled(workload: Manifest) -> bool:
    """Whether the autoscaler has taken over the replica count of a workload.

    It does so through /scale, or on the object itself where that is a custom resource, whose /scale takes no apply.
    """
    subresource = "scale" if workload["kind"] == "Deployment" else None
    return any(
        entry.get("manager") == names.MANAGER_AUTOSCALER and entry.get("subresource") == subresource
        for entry in workload["metadata"].get("managedFields", ())
    )


def _follow(manifest: Manifest, observed: Manifest | None, strategies: Mapping[str, Strategy]) -> Manifest:
    """Fit what is desired to what is there, where part of that must stay."""
    if manifest["kind"] in _TEMPLATES:
        return _follow_workload(manifest, observed, strategies.get(manifest["metadata"]["name"]))
    if manifest["kind"] == "PersistentVolumeClaim" and observed is not None:
        return _follow_claim(manifest, observed)
    return manifest


def _follow_workload(manifest: Manifest, observed: Manifest | None, strategy: Strategy | None) -> Manifest:
    template = _frozen_template(manifest, observed)
    if template is not None:
        annotations = {**manifest["metadata"]["annotations"], names.ANNOTATION_TEMPLATE: template}
        manifest = {
            **manifest,
            "metadata": {**manifest["metadata"], "annotations": annotations},
            "spec": {**manifest["spec"], _TEMPLATES[manifest["kind"]]: json.loads(template)},
        }
    if strategy is not None:
        manifest = apply_strategy(manifest, strategy)
    if observed is not None and is_scaled(observed):
        return manifest
    # Until the autoscaler owns the count, leaving it out would let Kubernetes default it to 1.
    replicas = 0 if observed is None else observed["spec"].get("replicas", 0)
    return {**manifest, "spec": {"replicas": replicas, **manifest["spec"]}}


def _follow_claim(manifest: Manifest, observed: Manifest) -> Manifest:
    """A claim can do one thing after its creation: grow. Whatever else the spec says now, it stays as it is."""
    there, wanted = observed["spec"], manifest["spec"]
    annotations = observed["metadata"].get("annotations") or {}
    is_chosen = names.ANNOTATION_STORAGE_CLASS in annotations
    size = max(
        there["resources"]["requests"]["storage"], wanted["resources"]["requests"]["storage"], key=parse_quantity
    )
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "annotations"}
    return {
        **manifest,
        "metadata": {
            **metadata,
            **(
                {"annotations": {names.ANNOTATION_STORAGE_CLASS: annotations[names.ANNOTATION_STORAGE_CLASS]}}
                if is_chosen
                else {}
            ),
        },
        "spec": {
            "accessModes": there["accessModes"],
            # The cluster's own choice is nothing that we ever wrote, and so nothing to write again.
            **({"storageClassName": there.get("storageClassName", "")} if is_chosen else {}),
            "resources": {"requests": {"storage": size}},
        },
    }


def _frozen_template(manifest: Manifest, observed: Manifest | None) -> str | None:
    """The template that the observed workload was given, where it is of the same revision."""
    if observed is None:
        return None
    annotations = observed["metadata"].get("annotations") or {}
    if annotations.get(names.LABEL_REVISION) != manifest["metadata"]["annotations"][names.LABEL_REVISION]:
        return None
    stored: str = annotations.get(names.ANNOTATION_TEMPLATE, "")
    try:
        template = json.loads(stored)
    except ValueError:
        return None
    # Whoever emptied or broke the annotation gets a fresh rendering rather than a workload without pods.
    is_whole = isinstance(template, dict) and _PARTS[manifest["kind"]] <= template.keys()
    return stored if is_whole else None
