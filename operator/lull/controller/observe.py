"""Everything that belongs to one LLMDeployment, from the store; whoever bears a child's name, from the API server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lull.api import names
from lull.core.observed import Observed, is_owned
from lull.core.planning import identify
from lull.doors.kube import RESOURCES, Transient
from lull.doors.store import WORKLOADS

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.doors.kube import Kube
    from lull.doors.store import Store


def snapshot(store: Store, deployment: LLMDeployment) -> Observed:
    """The children with our label that this very LLMDeployment controls, and the pods of its replicas."""
    pods = store.list_pods(deployment.key)
    return Observed(
        workloads=store.list_workloads(deployment),
        pods=tuple(pod for pod in pods if _component(pod) == names.COMPONENT_ENGINE),
        workers=tuple(pod for pod in pods if _component(pod) == names.COMPONENT_WORKER),
        others=store.list_others(deployment),
    )


async def observe(
    kube: Kube, store: Store, deployment: LLMDeployment, desired: tuple[Manifest, ...], *, is_wary: bool
) -> Observed:
    """The snapshot to plan from.

    What is desired and not in the store is looked up by name: a label may have been lost, and a name may be taken.
    Not so where there is no child at all and nothing makes us wary: then all are new, or creating them tells.
    """
    observed = snapshot(store, deployment)
    if not (is_wary or observed.workloads or observed.others):
        return observed
    namesakes = await _find_namesakes(kube, desired, observed)
    for namesake in namesakes:
        _wait_for_predecessor(namesake, deployment)
    ours = tuple(namesake for namesake in namesakes if is_owned(namesake, deployment))
    workload_kinds = {resource.kind for resource in WORKLOADS}
    return replace(
        observed,
        workloads=(*observed.workloads, *(child for child in ours if child["kind"] in workload_kinds)),
        others=(*observed.others, *(child for child in ours if child["kind"] not in workload_kinds)),
        foreign=tuple(namesake for namesake in namesakes if not is_owned(namesake, deployment)),
    )


def _component(pod: Manifest) -> str | None:
    component: str | None = pod["metadata"]["labels"].get(names.LABEL_COMPONENT)
    return component


async def _find_namesakes(kube: Kube, desired: tuple[Manifest, ...], observed: Observed) -> list[Manifest]:
    """Objects that bear the names of desired children which are not there."""
    there = {identify(child) for child in (*observed.workloads, *observed.others)}
    missing = [child for child in desired if identify(child) not in there]
    found = [
        await kube.get(RESOURCES[child["kind"]], child["metadata"]["namespace"], child["metadata"]["name"])
        for child in missing
    ]
    return [namesake for namesake in found if namesake is not None]


def _wait_for_predecessor(namesake: Manifest, deployment: LLMDeployment) -> None:
    """Children of an LLMDeployment that bore the same name are about to be collected: no reason to worry anybody."""
    for owner in namesake["metadata"].get("ownerReferences", ()):
        is_ours = owner.get("kind") == names.KIND and owner.get("name") == deployment.key.name
        if is_ours and owner.get("controller") and owner.get("uid") != deployment.uid:
            raise Transient(f"{' '.join(identify(namesake))} still belongs to a deleted {names.KIND} of the same name")
