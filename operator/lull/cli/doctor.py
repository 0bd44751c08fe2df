"""`lull doctor`: whether a cluster has what Lull needs, and what to do about what is missing."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from lull import __version__
from lull.api import names
from lull.cli.cluster import Unreachable, ask, complain, to_json
from lull.core.diagnosis import REQUIRED_ACCESS, Diagnosis, Facts, Verdict, diagnose
from lull.doors import clock
from lull.doors.kube import (
    DEPLOYMENTS,
    LEADER_WORKER_SETS,
    LEASES,
    NODES,
    POD_MONITORS,
    PODS,
    Refused,
    Resource,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from lull.api.llmdeployment import Manifest
    from lull.doors.kube import Kube

_STORAGE_CLASSES: Final = Resource("storage.k8s.io/v1", "StorageClass", "storageclasses")
_NAMESPACES: Final = Resource("v1", "Namespace", "namespaces")
_CRD_PATH: Final = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.PLURAL}.{names.GROUP}"
_STYLES: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


def run(*, context: str | None, output: str) -> int:
    """Print what was found; 1 where something fails, else 0."""
    try:
        facts = ask(_gather, context=context)
    except Unreachable as error:
        return complain("doctor", error)
    found = diagnose(facts, clock.wall())
    if output == "json":
        print(json.dumps([to_json(one) for one in found], indent=2))
    else:
        _print(found)
    return int(any(one.verdict is Verdict.FAIL for one in found))


def _print(found: tuple[Diagnosis, ...]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for one in found:
        table.add_row(f"[{_STYLES[one.verdict]}]{one.verdict.value}[/]", f"[bold]{one.subject}[/]", one.message)
    Console(highlight=False).print(table)


async def _gather(kube: Kube) -> Facts:
    lull = f"{names.LABEL_APP}={names.APP_LULL}"
    workloads = await _list(kube, DEPLOYMENTS, lull)
    operator = next(
        (one for one in workloads or () if one["metadata"]["labels"].get(names.LABEL_COMPONENT) == "operator"), None
    )
    return Facts(
        lull_version=__version__,
        server=await _try(kube.read("/version")),
        crd=await _try(kube.read(_CRD_PATH)),
        workloads=workloads,
        leases=await _list(kube, LEASES, lull, namespace=operator["metadata"]["namespace"]) if operator else (),
        access=await _review(kube, operator) if operator else None,
        nodes=await _list(kube, NODES),
        storage_classes=await _list(kube, _STORAGE_CLASSES),
        prometheus=await _list(kube, PODS, f"{names.LABEL_APP}=prometheus"),
        monitored=await _list(kube, _NAMESPACES, f"{names.LABEL_MONITORING}=true"),
        serves_groups=await kube.serves(LEADER_WORKER_SETS),
        serves_pod_monitors=await kube.serves(POD_MONITORS),
    )


async def _try(reading: Awaitable[Manifest | None]) -> Manifest | None:
    try:
        return await reading
    except Refused:
        return None


async def _list(
    kube: Kube, resource: Resource, labels: str = "", *, namespace: str | None = None
) -> tuple[Manifest, ...] | None:
    try:
        return (await kube.list(resource, labels=labels, namespace=namespace)).items
    except Refused:
        return None


async def _review(kube: Kube, operator: Manifest) -> dict[tuple[str, str, str], bool] | None:
    """What the operator's service account may do, where we may ask."""
    namespace = operator["metadata"]["namespace"]
    account = operator["spec"]["template"]["spec"].get("serviceAccountName", "default")
    user = f"system:serviceaccount:{namespace}:{account}"
    scope = _find_scope(operator)

    async def may(group: str, resource: str, verb: str) -> bool:
        name, _, subresource = resource.partition("/")
        attributes = {"group": group, "resource": name, "verb": verb, "subresource": subresource, "namespace": scope}
        review = await kube.create(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "metadata": {},
                "spec": {
                    "user": user,
                    "resourceAttributes": {key: value for key, value in attributes.items() if value},
                },
            }
        )
        return bool(review["status"].get("allowed"))

    try:
        allowed = await asyncio.gather(*(may(*asked) for asked in REQUIRED_ACCESS))
    except Refused:
        return None
    return dict(zip(REQUIRED_ACCESS, allowed, strict=True))


def _find_scope(operator: Manifest) -> str:
    """The one namespace that the operator watches; empty where it watches all."""
    environment: list[dict[str, Any]] = operator["spec"]["template"]["spec"]["containers"][0].get("env", [])
    return next((one.get("value", "") for one in environment if one["name"] == "LULL_WATCH_NAMESPACE"), "")
