"""Finding things in rendered manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Manifest = dict[str, Any]


def one(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (item for item in manifests if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return found


def kinds(manifests: Iterable[Manifest]) -> set[str]:
    return {manifest["kind"] for manifest in manifests}


def pod_specs(manifests: Iterable[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        match manifest["kind"]:
            case "Deployment" | "DaemonSet":
                yield manifest["spec"]["template"]["spec"]
            case "Pod":
                yield manifest["spec"]


def container(manifests: Iterable[Manifest], component: str) -> Manifest:
    deployment = one(manifests, "Deployment", f"lull-{component}")
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def environment(manifests: Iterable[Manifest], component: str) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container(manifests, component)["env"]}


def rules(role: Manifest) -> set[tuple[str, str, str]]:
    """Every (group, resource, verb) that a role grants."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
