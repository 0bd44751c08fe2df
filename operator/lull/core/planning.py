"""From desired and observed to what must be written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lull.api import names

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest
    from lull.core.observed import Observed


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


def plan(desired: tuple[Manifest, ...], observed: Observed) -> Plan:
    """Apply everything desired; delete what is owned but no longer wanted; nothing while a child's name is taken."""
    if observed.foreign:
        return Plan(apply=(), yielding=frozenset(), delete=())
    owned = {identify(manifest): manifest for manifest in (*observed.workloads, *observed.others)}
    wanted = {identify(manifest) for manifest in desired}
    followed = tuple(_follow(manifest, owned.get(identify(manifest))) for manifest in desired)
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


def _follow(manifest: Manifest, observed: Manifest | None) -> Manifest:
    """Fit a desired Deployment to the one that is there; other kinds are applied as they are."""
    if manifest["kind"] != "Deployment":
        return manifest
    template = _frozen_template(manifest, observed)
    if template is not None:
        annotations = {**manifest["metadata"]["annotations"], names.ANNOTATION_TEMPLATE: template}
        manifest = {
            **manifest,
            "metadata": {**manifest["metadata"], "annotations": annotations},
            "spec": {**manifest["spec"], "template": json.loads(template)},
        }
    if observed is not None and is_scaled(observed):
        return manifest
    # Until the autoscaler owns the count, leaving it out would let Kubernetes default it to 1.
    replicas = 0 if observed is None else observed["spec"].get("replicas", 0)
    return {**manifest, "spec": {"replicas": replicas, **manifest["spec"]}}


def identify(manifest: Manifest) -> Identity:
    """Kind and name: what tells one child of an LLMDeployment from another."""
    return manifest["kind"], manifest["metadata"]["name"]


def is_scaled(workload: Manifest) -> bool:
    """Whether the autoscaler has taken over the replica count of a workload: through /scale, or by applying that field."""
    return any(
        entry.get("manager") == names.MANAGER_AUTOSCALER
        and (entry.get("subresource") == "scale" or entry.get("operation") == "Apply")
        for entry in workload["metadata"].get("managedFields", ())
    )


def _frozen_template(manifest: Manifest, observed: Manifest | None) -> str | None:
    """The template that the observed Deployment was given, where it is of the same revision."""
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
    # Whoever emptied or broke the annotation gets a fresh rendering rather than a Deployment without pods.
    return stored if isinstance(template, dict) and {"metadata", "spec"} <= template.keys() else None
