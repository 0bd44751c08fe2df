"""Laws of build and plan, over any valid spec."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lull.api import names
from lull.api.llmdeployment import Manifest
from lull.core.manifests import BuildSettings, build
from lull.core.observed import Observed
from lull.core.planning import plan
from tests.manifests import SETTINGS, manifest, stored
from tests.properties.specs import MINDERS, NAMES, PODS

OTHER = BuildSettings("lull/lull:9.9.9", "Always", "https://mirror.example", "elsewhere")


def _build(spec: dict[str, Any], *, name: str = "llama-8b", settings: BuildSettings = SETTINGS) -> tuple[Manifest, ...]:
    return build(stored(manifest(name=name, **spec)), settings)


def _after(applied: tuple[Manifest, ...], *, scaled: bool) -> Observed:
    """What a cluster holds after an apply, and after the autoscaler's first word where `scaled`."""
    fields = {"managedFields": [{"manager": names.MANAGER_AUTOSCALER, "subresource": "scale"}]} if scaled else {}
    return Observed(
        workloads=tuple(
            {**child, "metadata": {**child["metadata"], **fields}} for child in applied if child["kind"] == "Deployment"
        ),
        others=tuple(child for child in applied if child["kind"] != "Deployment"),
    )


@given(PODS, MINDERS, NAMES)
def test_any_valid_spec_renders_with_names_and_labels_that_kubernetes_takes(
    pods: dict[str, Any], minders: dict[str, Any], name: str
) -> None:
    for child in _build({**pods, **minders}, name=name):
        metadata = child["metadata"]
        # A ReplicaSet adds 11 characters, and its name is cut for its pods at 58.
        assert len(metadata["name"]) <= 52
        assert all(len(value) <= 63 for value in metadata["labels"].values())


@given(PODS)
def test_the_same_spec_gives_the_same_children(pods: dict[str, Any]) -> None:
    assert _build(pods) == _build(pods)


@given(PODS, MINDERS, MINDERS)
def test_pods_do_not_restart_for_scaling_or_queue(
    pods: dict[str, Any], before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert _build({**pods, **before}) == _build({**pods, **after})


@given(PODS, st.booleans())
def test_planning_again_after_an_apply_plans_the_same_and_deletes_nothing(pods: dict[str, Any], scaled: bool) -> None:
    desired = _build(pods)
    first = plan(desired, _after(plan(desired, Observed()).apply, scaled=scaled))

    second = plan(desired, _after(first.apply, scaled=scaled))

    assert second == first
    assert second.delete == ()


@given(PODS)
def test_an_operator_with_other_settings_changes_no_template(pods: dict[str, Any]) -> None:
    running = plan(_build(pods), Observed()).apply

    applied = plan(_build(pods, settings=OTHER), _after(running, scaled=False)).apply

    assert [child["spec"] for child in applied if child["kind"] == "Deployment"] == [
        child["spec"] for child in running if child["kind"] == "Deployment"
    ]


@given(PODS, PODS)
def test_equal_revisions_mean_equal_templates(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = _build(one)[-1], _build(other)[-1]

    same = (
        first["metadata"]["annotations"][names.LABEL_REVISION]
        == second["metadata"]["annotations"][names.LABEL_REVISION]
    )

    assert same == (first["spec"]["template"] == second["spec"]["template"])
