"""What of an object is kept in memory: what somebody decides from or shows, and not the bulk beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lull.doors.kube import DEPLOYMENTS, LEADER_WORKER_SETS, LLMDEPLOYMENTS, NODES, PERSISTENT_VOLUME_CLAIMS, PODS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.api.llmdeployment import Manifest

_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_SCALED: Final = frozenset({DEPLOYMENTS.kind, LEADER_WORKER_SETS.kind})
_WITH_STATUS: Final = _SCALED | {LLMDEPLOYMENTS.kind, PERSISTENT_VOLUME_CLAIMS.kind}
_MANAGER: Final = ("manager", "operation", "subresource")
_POD_SPEC: Final = ("nodeName", "nodeSelector", "priorityClassName", "schedulingGates", "tolerations")
_CONTAINER: Final = ("name", "image", "ports", "resources", "restartPolicy")
_NODE_METADATA: Final = ("name", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels")
_CONDITION: Final = ("type", "status", "reason", "message", "lastTransitionTime")


def trim(manifest: Manifest) -> Manifest:
    """The object without what nobody here asks for."""
    match manifest["kind"]:
        case NODES.kind:
            return _trim_node(manifest)
        case PODS.kind:
            return {
                **manifest,
                "metadata": _trim_metadata(manifest["metadata"]),
                "spec": _trim_pod_spec(manifest.get("spec") or {}),
            }
        case kind:
            left_out = () if kind in _WITH_STATUS else ("status",)
            return {
                **{field: value for field, value in manifest.items() if field not in left_out},
                "metadata": _trim_metadata(manifest["metadata"], is_scaled=kind in _SCALED),
            }


def is_alike(one: Manifest, other: Manifest) -> bool:
    """Whether two trimmed objects differ in nothing but their resource version."""
    if one.keys() != other.keys():
        return False
    version = {"resourceVersion": ""}
    return {**one["metadata"], **version} == {**other["metadata"], **version} and all(
        value == other[field] for field, value in one.items() if field != "metadata"
    )


def _trim_metadata(metadata: Manifest, *, is_scaled: bool = False) -> Manifest:
    kept = {field: value for field, value in metadata.items() if field != "managedFields"}
    if _LAST_APPLIED in (metadata.get("annotations") or {}):
        kept["annotations"] = {key: value for key, value in metadata["annotations"].items() if key != _LAST_APPLIED}
    if is_scaled:
        # Who wrote the replica count is told by nothing else.
        kept["managedFields"] = [_pick(entry, _MANAGER) for entry in metadata.get("managedFields") or ()]
    return kept


def _trim_pod_spec(spec: Manifest) -> Manifest:
    containers: Manifest = {
        field: [_pick(container, _CONTAINER) for container in spec[field]]
        for field in ("initContainers", "containers")
        if field in spec
    }
    return {**_pick(spec, _POD_SPEC), **containers}


def _trim_node(manifest: Manifest) -> Manifest:
    spec, status = manifest.get("spec") or {}, manifest.get("status") or {}
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": _pick(manifest["metadata"], _NODE_METADATA),
        "spec": _pick(spec, ("taints", "unschedulable")),
        "status": {
            **_pick(status, ("capacity", "allocatable")),
            # Without the heartbeat, which alone would make every node a changed one all the time.
            "conditions": [
                _pick(condition, _CONDITION)
                for condition in status.get("conditions") or ()
                if condition["type"] == "Ready"
            ],
        },
    }


def _pick(fields: Manifest, kept: Iterable[str]) -> Manifest:
    return {field: fields[field] for field in kept if field in fields}
