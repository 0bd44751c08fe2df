"""What `lull doctor` makes of a cluster: is all there that Lull needs, and what to do about what is not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Any, Final

from lull.api import names
from lull.api.schema import build_crd
from lull.api.timestamps import parse_timestamp
from lull.core.manifests.vendors import PRODUCT_LABELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lull.api.llmdeployment import Manifest

LEAST_VERSION: Final = (1, 31)
"""What the chart asks for: the sleep action of preStop hooks and native sidecars are on by default there."""
LEASE_PATIENCE: Final = 3
"""A Lease that was not renewed for so many of its durations has no holder any more."""

REQUIRED_ACCESS: Final[tuple[tuple[str, str, str], ...]] = (
    ("lull.dev", "llmdeployments", "watch"),
    ("lull.dev", "llmdeployments/status", "patch"),
    ("apps", "deployments", "patch"),
    ("apps", "deployments/scale", "patch"),
    ("", "services", "patch"),
    ("", "persistentvolumeclaims", "patch"),
    ("", "pods", "watch"),
    ("", "events", "create"),
    ("networking.k8s.io", "networkpolicies", "patch"),
    ("policy", "poddisruptionbudgets", "patch"),
)
"""What the operator cannot do without, as group, resource and verb."""


@unique
class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    """Something is missing that not everybody needs."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    verdict: Verdict
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read; None where it could not be, by what the user may read."""

    lull_version: str
    server: Mapping[str, Any] | None
    crd: Manifest | None
    workloads: tuple[Manifest, ...] | None
    """Deployments of Lull's chart."""
    leases: tuple[Manifest, ...] | None
    access: Mapping[tuple[str, str, str], bool] | None
    """What the operator's service account may do."""
    nodes: tuple[Manifest, ...] | None
    storage_classes: tuple[Manifest, ...] | None
    prometheus: tuple[Manifest, ...] | None
    """Pods that call themselves Prometheus."""
    monitored: tuple[Manifest, ...] | None
    """Namespaces opened for monitoring."""
    serves_groups: bool
    serves_pod_monitors: bool


def diagnose(facts: Facts, now: float) -> tuple[Diagnosis, ...]:
    """All findings, in the order in which to see to them."""
    return (
        *_check_server(facts),
        *_check_crd(facts),
        *_check_workloads(facts),
        *_check_leader(facts, now),
        *_check_access(facts),
        *_check_nodes(facts),
        *_check_storage(facts),
        *_check_groups(facts),
        *_check_monitoring(facts),
    )


def _ok(subject: str, message: str) -> Diagnosis:
    return Diagnosis(Verdict.OK, subject, message)


def _warn(subject: str, message: str) -> Diagnosis:
    return Diagnosis(Verdict.WARN, subject, message)


def _fail(subject: str, message: str) -> Diagnosis:
    return Diagnosis(Verdict.FAIL, subject, message)


def _check_server(facts: Facts) -> Iterator[Diagnosis]:
    subject = "Kubernetes"
    if facts.server is None:
        yield _warn(subject, "its version could not be read")
        return
    version = tuple(int("".join(filter(str.isdigit, facts.server[part])) or 0) for part in ("major", "minor"))
    text = facts.server["gitVersion"]
    if version < LEAST_VERSION:
        yield _fail(subject, f"{text} is too old: Lull needs {'.'.join(map(str, LEAST_VERSION))}")
    else:
        yield _ok(subject, text)


def _check_crd(facts: Facts) -> Iterator[Diagnosis]:
    subject = "CRD"
    if facts.crd is None:
        yield _fail(subject, "LLMDeployments are not installed: install the chart with crds.install=true")
        return
    installed = facts.crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    missing = sorted(_paths(build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]) - _paths(installed))
    if missing:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        yield _fail(
            subject,
            f"is older than this lull {facts.lull_version}: {len(missing)} fields are missing ({shown}), and the API "
            "server drops them from what is applied; upgrade the chart",
        )
    else:
        yield _ok(subject, f"{names.PLURAL}.{names.GROUP} has every field of lull {facts.lull_version}")


def _paths(schema: Manifest, path: str = "") -> set[str]:
    found = {path} if path else set()
    for name, property_ in schema.get("properties", {}).items():
        found |= _paths(property_, f"{path}.{name}" if path else name)
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            found |= _paths(schema[inner], path)
    return found


def _check_workloads(facts: Facts) -> Iterator[Diagnosis]:
    if facts.workloads is None:
        yield _warn("Lull", "its Deployments could not be read: run as somebody who may list Deployments")
        return
    for component, consequence in (
        ("operator", "nothing is created, scaled or repaired"),
        ("gateway", "no request is served"),
    ):
        found = [one for one in facts.workloads if one["metadata"]["labels"].get(names.LABEL_COMPONENT) == component]
        if not found:
            yield _fail(component, f"is not installed: {consequence}; install the chart")
        for one in found:
            where = f"{one['metadata']['namespace']}/{one['metadata']['name']}"
            ready, wanted = (one.get("status") or {}).get("readyReplicas", 0), one["spec"].get("replicas", 1)
            image = one["spec"]["template"]["spec"]["containers"][0]["image"]
            text = f"{where}: {ready} of {wanted} ready, {image}"
            if ready == 0:
                yield _fail(
                    component, f"{text}; {consequence}: kubectl describe pods -n {one['metadata']['namespace']}"
                )
            else:
                yield _ok(component, text) if ready >= wanted else _warn(component, text)


def _check_leader(facts: Facts, now: float) -> Iterator[Diagnosis]:
    if facts.leases is None or not facts.workloads:
        return
    subject = "leader"
    for lease in facts.leases:
        spec = lease.get("spec") or {}
        holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
        if not holder or not renewed:
            yield _fail(subject, "no operator leads: nothing is created or scaled; see the operator's log")
        elif now - parse_timestamp(renewed) > LEASE_PATIENCE * spec.get("leaseDurationSeconds", 15):
            yield _fail(subject, f"{holder} has not renewed its Lease since {renewed}; see the operator's log")
        else:
            yield _ok(subject, f"{holder} leads")
    if not facts.leases:
        yield _fail(subject, "there is no Lease: no operator has ever led; see the operator's log")


def _check_access(facts: Facts) -> Iterator[Diagnosis]:
    if facts.access is None:
        return
    denied = sorted(
        f"{verb} {resource}{f'.{group}' if group else ''}"
        for (group, resource, verb), allowed in facts.access.items()
        if not allowed
    )
    if denied:
        yield _fail("RBAC", f"the operator may not {', '.join(denied)}: install the chart with its roles")
    else:
        yield _ok("RBAC", f"the operator may do the {len(facts.access)} things that were asked for")


def _check_nodes(facts: Facts) -> Iterator[Diagnosis]:
    subject = "accelerators"
    if facts.nodes is None:
        yield _warn(subject, "nodes could not be read: run as somebody who may list nodes")
        return
    counts: dict[str, dict[str, int]] = {}
    unlabelled: list[str] = []
    for node in facts.nodes:
        labels = node["metadata"].get("labels", {})
        for resource, label in PRODUCT_LABELS.items():
            count = int((node.get("status") or {}).get("allocatable", {}).get(resource, 0))
            if count:
                product = labels.get(label, "unlabelled")
                unlabelled += [node["metadata"]["name"]] if label not in labels else []
                products = counts.setdefault(resource, {})
                products[product] = products.get(product, 0) + count
    for resource, products in counts.items():
        listed = ", ".join(f"{count} x {product}" for product, count in sorted(products.items()))
        yield _ok(subject, f"{resource}: {listed}, on {len(facts.nodes)} nodes")
    if unlabelled:
        yield _warn(
            subject,
            f"{', '.join(unlabelled[:5])} bear no product label, so spec.accelerator.product finds them not: run the "
            "vendor's feature discovery",
        )
    if not counts:
        yield _warn(
            subject,
            "no node offers any: LLMDeployments without vendor Cpu wait for nodes; install the vendor's device plugin, "
            "or nodes with accelerators",
        )


def _check_storage(facts: Facts) -> Iterator[Diagnosis]:
    if facts.storage_classes is None:
        return
    key = "storageclass.kubernetes.io/is-default-class"
    default = [
        one["metadata"]["name"]
        for one in facts.storage_classes
        if one["metadata"].get("annotations", {}).get(key) == "true"
    ]
    if default:
        yield _ok("storage", f"default StorageClass {', '.join(default)}")
    else:
        yield _warn(
            "storage", "there is no default StorageClass: a model.cache of type PersistentVolumeClaim must name one"
        )


def _check_groups(facts: Facts) -> Iterator[Diagnosis]:
    subject = "LeaderWorkerSet"
    if facts.serves_groups:
        yield _ok(subject, "is installed: replicas may span nodes")
    else:
        yield _warn(subject, "is not installed: needed only for accelerator.nodesPerReplica above 1")


def _check_monitoring(facts: Facts) -> Iterator[Diagnosis]:
    subject = "Prometheus"
    if not facts.prometheus:
        seen = "no pod calls itself Prometheus" if facts.prometheus is not None else "pods could not be read"
        yield _warn(subject, f"{seen}: metrics are served, and nobody may be collecting them")
        return
    open_namespaces = {one["metadata"]["name"] for one in facts.monitored or ()}
    closed = sorted({pod["metadata"]["namespace"] for pod in facts.prometheus} - open_namespaces)
    if closed:
        yield _warn(
            subject,
            f"cannot reach engines from {', '.join(closed)}: kubectl label namespace {closed[0]} "
            f"{names.LABEL_MONITORING}=true",
        )
    elif not facts.serves_pod_monitors:
        yield _warn(subject, "runs without PodMonitors: scrape engines by pod discovery (port http, path /metrics)")
    else:
        yield _ok(subject, "may reach engines, and PodMonitors tell it where")
