from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from lull.api import names
from lull.api.llmdeployment import Manifest
from lull.core.manifests import BuildSettings, build
from lull.core.observed import Observed
from lull.core.planning import identify, plan
from tests.manifests import SETTINGS, manifest, stored

SCALED: Manifest = {"managedFields": [{"manager": names.MANAGER_AUTOSCALER, "subresource": "scale"}]}
NEWER = BuildSettings("lull/lull:9.9.9", "Always", "https://mirror.example", "lull-system")


def _desired(settings: BuildSettings = SETTINGS, **spec: Any) -> tuple[Manifest, ...]:
    return build(stored(manifest(**spec)), settings)


def _observed(desired: tuple[Manifest, ...], *, replicas: int = 0, **metadata: Any) -> Observed:
    workload = desired[-1]
    return Observed(
        workloads=(
            {
                **workload,
                "metadata": {**workload["metadata"], "uid": "w", **metadata},
                "spec": {**workload["spec"], "replicas": replicas},
            },
        ),
        others=desired[:-1],
    )


def test_a_workload_is_born_with_no_replica() -> None:
    assert plan(_desired(), Observed()).apply[-1]["spec"]["replicas"] == 0


def test_keeps_the_count_until_the_autoscaler_takes_it_over() -> None:
    desired = _desired()

    assert plan(desired, _observed(desired, replicas=2)).apply[-1]["spec"]["replicas"] == 2


def test_leaves_the_count_alone_once_the_autoscaler_has_it() -> None:
    desired = _desired()

    assert "replicas" not in plan(desired, _observed(desired, replicas=2, **SCALED)).apply[-1]["spec"]


def test_an_update_by_the_autoscaler_outside_scale_is_no_takeover() -> None:
    desired = _desired()
    fields = [{"manager": names.MANAGER_AUTOSCALER}, {"manager": "kubectl", "subresource": "scale"}]

    observed = _observed(desired, replicas=2, managedFields=fields)

    assert plan(desired, observed).apply[-1]["spec"]["replicas"] == 2


def test_a_newer_operator_applies_the_template_that_is_there() -> None:
    before, after = _desired(), _desired(NEWER)

    applied = plan(after, _observed(before, **SCALED)).apply[-1]

    assert after[-1]["spec"]["template"] != before[-1]["spec"]["template"]
    assert applied["spec"] == before[-1]["spec"]
    assert applied["metadata"]["annotations"] == before[-1]["metadata"]["annotations"]


def test_a_new_revision_is_rendered_anew() -> None:
    before, after = _desired(), _desired(NEWER, engine={"maxModelLen": 4096})

    applied = plan(after, _observed(before, **SCALED)).apply[-1]

    assert applied["spec"]["template"] == after[-1]["spec"]["template"]


def test_a_broken_annotation_is_rendered_anew() -> None:
    desired = _desired()
    revision = desired[-1]["metadata"]["annotations"][names.LABEL_REVISION]

    for broken in ("", "{", "[]", "null", json.dumps({"spec": {}})):
        annotations = {names.LABEL_REVISION: revision, names.ANNOTATION_TEMPLATE: broken}
        observed = _observed(desired, annotations=annotations, **SCALED)
        assert plan(desired, observed).apply[-1]["spec"]["template"] == desired[-1]["spec"]["template"]


def test_deletes_what_is_owned_and_no_longer_wanted() -> None:
    before = _desired()
    after = _desired(placement={"pools": [{"name": "other"}]})
    observed = _observed(before, **SCALED)

    todo = plan(after, observed)

    assert todo.delete == observed.workloads
    assert [child["metadata"]["name"] for child in todo.apply if child["kind"] == "Deployment"] == ["llama-8b-other"]


def test_deletes_nothing_twice() -> None:
    before = _desired()
    after = _desired(placement={"pools": [{"name": "other"}]})

    assert plan(after, _observed(before, deletionTimestamp="2026-01-01T00:00:00Z")).delete == ()


def test_touches_nothing_while_a_name_is_taken() -> None:
    before = _desired()
    taken: Manifest = {"kind": "Service", "metadata": {"name": "llama-8b-engine"}}
    after = _desired(placement={"pools": [{"name": "other"}]})
    observed = replace(_observed(before, **SCALED), foreign=(taken,))

    todo = plan(after, observed)

    assert (todo.apply, todo.delete) == ((), ())


def test_gives_birth_without_force() -> None:
    todo = plan(_desired(), Observed())

    assert todo.yielding == {identify(child) for child in todo.apply}


def test_a_count_that_the_autoscaler_may_be_taking_over_is_applied_without_force() -> None:
    desired = _desired()
    workload = identify(desired[-1])

    assert plan(desired, _observed(desired)).yielding == {workload}
    assert plan(desired, _observed(desired, **SCALED)).yielding == set()
