"""Laws of build and plan, over any valid spec."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lull.api import names
from lull.api.llmdeployment import Manifest
from lull.core.manifests import BuildSettings, build
from lull.core.observed import Observed
from lull.core.planning import Plan, identify, plan
from lull.core.rollout import IN_PLACE
from tests.manifests import SETTINGS, manifest, stored
from tests.properties.specs import ITEMS, MINDERS, NAMES, PODS, ROLLOUTS, Spec

OTHER = BuildSettings(
    "lull/lull:9.9.9",
    "Always",
    "https://mirror.example",
    "elsewhere",
    s3_endpoint="https://s3.example",
    gs_endpoint="https://gs.example",
    oci_plain_http="registry:5000",
    pass_labels=("team",),
    serves_pod_monitors=True,
)
WORKLOADS = {
    "Deployment": [{"manager": names.MANAGER_AUTOSCALER, "subresource": "scale"}],
    "LeaderWorkerSet": [{"manager": names.MANAGER_AUTOSCALER}],
}
"""How each kind of workload shows that the autoscaler has its replica count."""


def _build(spec: Spec, *, name: str = "llama-8b", settings: BuildSettings = SETTINGS) -> tuple[Manifest, ...]:
    return build(stored(manifest(name=name, **spec)), settings)


def _workload(children: tuple[Manifest, ...]) -> Manifest:
    assert children[-1]["kind"] in WORKLOADS
    return children[-1]


def _template(workload: Manifest) -> Any:
    """What pods are made from, without the digest that they bear."""
    revision = workload["metadata"]["annotations"][names.LABEL_REVISION]
    return json.loads(workload["metadata"]["annotations"][names.ANNOTATION_TEMPLATE].replace(revision, ""))


def _settled(child: Manifest) -> Manifest:
    """A child without its replica count, which is the autoscaler's as soon as that has decided."""
    return {**child, "spec": {key: value for key, value in child["spec"].items() if key != "replicas"}}


def _after(before: Observed, todo: Plan, *, scaled: bool) -> Observed:
    """What a cluster holds after a plan was carried out, and after the autoscaler's first word where `scaled`."""
    deleted = {identify(child) for child in todo.delete}
    there = {
        identify(child): child for child in (*before.workloads, *before.others) if identify(child) not in deleted
    } | {identify(child): child for child in todo.apply}
    return Observed(
        workloads=tuple(
            {**child, "metadata": {**child["metadata"], "managedFields": WORKLOADS[child["kind"]] if scaled else []}}
            for child in there.values()
            if child["kind"] in WORKLOADS
        ),
        others=tuple(child for child in there.values() if child["kind"] not in WORKLOADS),
    )


@given(PODS, MINDERS, NAMES)
def test_any_valid_spec_renders_with_names_and_labels_that_kubernetes_takes(
    pods: Spec, minders: Spec, name: str
) -> None:
    for child in _build({**pods, **minders}, name=name, settings=OTHER):
        metadata = child["metadata"]
        # A ReplicaSet adds 11 characters, a revision of a group's workers 15, and 63 fit into a label.
        assert len(metadata["name"]) <= (48 if child["kind"] == "LeaderWorkerSet" else 52)
        assert all(len(value) <= 63 for value in metadata["labels"].values())


@given(PODS)
def test_the_same_spec_gives_the_same_children(pods: Spec) -> None:
    assert json.dumps(_build(pods)) == json.dumps(_build(pods))


@given(PODS, MINDERS, MINDERS)
def test_nothing_changes_for_scaling_or_what_the_gateway_does(pods: Spec, before: Spec, after: Spec) -> None:
    assert _build({**pods, **before}) == _build({**pods, **after})


@given(PODS, ITEMS, ROLLOUTS)
def test_pods_do_not_restart_for_the_list_of_adapters_or_the_way_of_replacing_them(
    pods: Spec, items: list[Spec], rollout: Spec
) -> None:
    before = {**pods, "adapters": pods.get("adapters", {})}
    after = {
        **pods,
        "adapters": {**before["adapters"], "items": items},
        "rollout": {**pods.get("rollout", {}), **rollout},
    }

    assert _template(_workload(_build(before))) == _template(_workload(_build(after)))


@given(PODS, st.booleans())
def test_planning_again_after_an_apply_plans_the_same_and_deletes_nothing(pods: Spec, scaled: bool) -> None:
    desired = _build(pods)
    born = _after(Observed(), plan(desired, Observed()), scaled=scaled)
    first = plan(desired, born)

    second = plan(desired, _after(born, first, scaled=scaled))

    assert second == first
    assert second.delete == ()


@given(PODS, PODS, st.booleans())
def test_any_spec_becomes_any_other_in_one_round(one: Spec, other: Spec, scaled: bool) -> None:
    before = _after(Observed(), plan(_build(one), Observed()), scaled=scaled)
    desired = _build(other)

    todo = plan(desired, before)
    after = _after(before, todo, scaled=scaled)

    assert {identify(child) for child in (*after.workloads, *after.others)} == {identify(child) for child in desired}
    again = plan(desired, after)
    assert again.delete == ()
    assert [_settled(child) for child in again.apply] == [_settled(child) for child in todo.apply]
    assert [_template(child) for child in todo.apply if child["kind"] in WORKLOADS] == [_template(_workload(desired))]


@given(PODS)
def test_an_operator_with_other_settings_changes_no_template(pods: Spec) -> None:
    running = plan(_build(pods), Observed())

    todo = plan(_build(pods, settings=OTHER), _after(Observed(), running, scaled=False))

    assert _workload(todo.apply)["spec"] == _workload(running.apply)["spec"]
    assert todo.delete == ()


@given(PODS, ROLLOUTS)
def test_another_way_of_replacing_pods_changes_nothing_else(pods: Spec, rollout: Spec) -> None:
    desired = _build({**pods, "rollout": rollout})
    there = _after(Observed(), plan(desired, Observed()), scaled=True)
    name = _workload(desired)["metadata"]["name"]

    (usual, *_), (in_place, *_) = (
        [child["spec"] for child in plan(desired, there, strategies).apply if child["kind"] in WORKLOADS]
        for strategies in ({}, {name: IN_PLACE})
    )

    strategies = {"strategy", "rolloutStrategy"}
    assert {key: value for key, value in usual.items() if key not in strategies} == {
        key: value for key, value in in_place.items() if key not in strategies
    }


@given(PODS, PODS)
def test_equal_revisions_mean_equal_templates(one: Spec, other: Spec) -> None:
    first, second = _workload(_build(one)), _workload(_build(other))

    same = (
        first["metadata"]["annotations"][names.LABEL_REVISION]
        == second["metadata"]["annotations"][names.LABEL_REVISION]
    )

    # Two ways of saying the same may have digests of their own; one digest for two templates must not be.
    assert not same or _template(first) == _template(second)
