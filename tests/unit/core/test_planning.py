from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lull.api import names
from lull.api.llmdeployment import Manifest
from lull.core.manifests import BuildSettings, build
from lull.core.observed import Observed
from lull.core.planning import identify, plan
from lull.core.rollout import IN_PLACE
from tests.manifests import SETTINGS, manifest, stored

SCALED: Manifest = {"managedFields": [{"manager": names.MANAGER_AUTOSCALER, "subresource": "scale"}]}
APPLIED: Manifest = {"managedFields": [{"manager": names.MANAGER_AUTOSCALER, "operation": "Apply"}]}
"""A custom resource's /scale takes no apply, so its count is applied on the object."""
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


def test_a_group_keeps_the_template_that_is_there_too() -> None:
    spec: Manifest = {"accelerator": {"nodesPerReplica": 2}, "parallelism": {"tensor": 2}}
    before, after = _desired(**spec), _desired(NEWER, **spec)

    applied = plan(after, _observed(before, **APPLIED)).apply[-1]

    assert after[-1]["spec"]["leaderWorkerTemplate"] != before[-1]["spec"]["leaderWorkerTemplate"]
    assert applied["spec"] == before[-1]["spec"]


def test_a_replica_that_comes_to_span_nodes_changes_its_kind() -> None:
    before = _desired()
    after = _desired(accelerator={"nodesPerReplica": 2}, parallelism={"tensor": 2})
    observed = _observed(before, **SCALED)

    todo = plan(after, observed)

    assert todo.delete == observed.workloads
    assert todo.apply[-1]["kind"] == "LeaderWorkerSet"
    assert todo.apply[-1]["spec"]["replicas"] == 0


def test_replaces_pods_by_the_strategy_that_it_is_given() -> None:
    desired = _desired()

    applied = plan(desired, _observed(desired), {"llama-8b-default": IN_PLACE}).apply[-1]

    assert applied["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert applied["spec"]["template"] == desired[-1]["spec"]["template"]


def _claimed(size: str, **cache: Any) -> tuple[Manifest, ...]:
    return _desired(
        model={"source": "hf://org/name", "cache": {"type": "PersistentVolumeClaim", "size": size, **cache}}
    )


def _claim(children: tuple[Manifest, ...]) -> Manifest:
    (claim,) = (child for child in children if child["kind"] == "PersistentVolumeClaim")
    return claim


@pytest.mark.parametrize(
    ("before", "after", "size"), [("1Gi", "2Gi", "2Gi"), ("2Gi", "1Gi", "2Gi"), ("1Gi", "1024Mi", "1Gi")]
)
def test_a_claim_grows_and_never_shrinks(before: str, after: str, size: str) -> None:
    observed = Observed(others=(_claim(_claimed(before)),))

    applied = _claim(plan(_claimed(after), observed).apply)

    assert applied["spec"]["resources"]["requests"]["storage"] == size


def test_what_a_claim_was_created_with_stays() -> None:
    first = _claim(_claimed("1Gi", storageClassName="slow", accessMode="ReadWriteOnce"))

    for later in ({}, {"storageClassName": "fast"}, {"storageClassName": "slow", "accessMode": "ReadWriteOnce"}):
        assert _claim(plan(_claimed("1Gi", **later), Observed(others=(first,))).apply) == first


def test_a_class_that_the_cluster_chose_is_not_taken_over() -> None:
    born = _claim(_claimed("1Gi"))
    defaulted = {**born, "spec": {**born["spec"], "storageClassName": "standard", "volumeName": "pv-1"}}

    for later in ({}, {"storageClassName": "fast"}):
        assert _claim(plan(_claimed("1Gi", **later), Observed(others=(defaulted,))).apply) == born


def test_a_cache_that_nobody_uses_any_more_is_deleted() -> None:
    claim = _claim(_claimed("1Gi"))

    assert plan(_desired(), Observed(others=(claim,))).delete == (claim,)


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
