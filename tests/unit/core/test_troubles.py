from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from lull.api.llmdeployment import Manifest
from lull.api.reasons import Reason
from lull.api.timestamps import parse_timestamp
from lull.core.troubles import Case, find_due, find_trouble
from tests.manifests import manifest, stored

AT = "2026-01-01T10:00:00Z"


def _pod(name: str = "a", **status: Any) -> Manifest:
    return {
        "metadata": {"name": name, "labels": {"lull.dev/pool": "default"}},
        "status": {"phase": "Pending", **status},
    }


def _waiting(reason: str, message: str = "", *, container: str = "engine") -> Manifest:
    state = {"waiting": {"reason": reason, "message": message}}
    return _pod(containerStatuses=[{"name": container, "image": "org/image:1", "ready": False, "state": state}])


def _fetched(code: int, message: str = "It says so.") -> Manifest:
    ended = {"exitCode": code, "message": f"a line of its log\n{message}\n"}
    return _pod(initContainerStatuses=[{"name": "fetch", "ready": False, "lastState": {"terminated": ended}}])


def _ended(message: str, *, restarts: int = 5, **ended: Any) -> Manifest:
    last = {"terminated": {"exitCode": 1, "message": message, **ended}}
    status = {"name": "engine", "ready": False, "restartCount": restarts, "lastState": last, "state": {}}
    return _pod(containerStatuses=[status])


def _unscheduled(message: str) -> Manifest:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return _pod(conditions=[{**condition, "lastTransitionTime": AT}])


def _refused(message: str) -> Manifest:
    return {
        "kind": "Deployment",
        "metadata": {"name": "w", "generation": 3},
        "spec": {"replicas": 1},
        "status": {
            "observedGeneration": 3,
            "conditions": [{"type": "ReplicaFailure", "status": "True", "message": message}],
        },
    }


def _case(**spec: Any) -> Case:
    return Case(stored(manifest(**spec)).spec)


def _reason(*pods: Manifest, case: Case | None = None) -> Reason:
    found = find_trouble((), pods, case or Case())
    assert found is not None
    return found[0].reason


def test_the_order_of_pods_changes_no_word() -> None:
    pods = (
        _ended("boom"),
        _ended("bang"),
        _fetched(11),
        _unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
    )

    found = {find_trouble((), order) for order in permutations(pods)}

    assert len(found) == 1


def test_counts_those_with_the_trouble_that_it_names() -> None:
    found = find_trouble((), (_fetched(11), _fetched(11), _ended("boom")))

    assert found is not None
    assert (found[0].reason, found[1]) == (Reason.SOURCE_FORBIDDEN, 2)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (10, Reason.SOURCE_NOT_FOUND),
        (11, Reason.SOURCE_FORBIDDEN),
        (12, Reason.DISK_FULL),
        (13, Reason.INCOMPATIBLE_MODEL),
        (14, Reason.CACHE_NOT_WRITABLE),
        (1, Reason.FETCH_FAILED),
        (137, Reason.FETCH_FAILED),
    ],
)
def test_reads_the_fetchers_exit_code_and_its_last_line(code: int, reason: Reason) -> None:
    found = find_trouble((), (_fetched(code),))

    assert found is not None
    assert (found[0].reason, found[0].detail) == (reason, "It says so.")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hf://org/name", "`token`"),
        ("s3://bucket/name", "AWS_ACCESS_KEY_ID"),
        ("gs://bucket/name", "service-account.json"),
        ("oci://registry/name", ".dockerconfigjson"),
    ],
)
@pytest.mark.parametrize("secret", [{}, {"secretName": "key"}], ids=["no secret", "secret"])
def test_names_the_key_that_opens_the_source(source: str, words: str, secret: dict[str, str]) -> None:
    found = find_trouble((), (_fetched(11),), _case(model={"source": source, **secret}))

    assert found is not None
    assert words in found[0].advice
    assert "spec.model.secretName" in found[0].advice


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"type": "Ephemeral"}, ""),
        ({"type": "Ephemeral", "size": "1Gi"}, "spec.model.cache.size"),
        ({"type": "PersistentVolumeClaim", "size": "1Gi"}, "spec.model.cache.size"),
        ({"type": "PersistentVolumeClaim", "claimName": "mine"}, '"mine"'),
        ({"type": "HostPath", "path": "/data"}, "spec.model.cache.path"),
    ],
)
def test_says_which_disk_is_full(cache: dict[str, str], words: str) -> None:
    found = find_trouble((), (_fetched(12),), _case(model={"source": "hf://org/name", "cache": cache}))

    assert found is not None
    assert words in found[0].advice


@pytest.mark.parametrize(
    ("word", "message", "words"),
    [
        ("InvalidImageName", 'couldn\'t parse image name "Not An Image"', "registry/repository:tag"),
        ("ErrImagePull", "registry/a:1: not found", "There is no such image"),
        (
            "ErrImagePull",
            "pull access denied, repository does not exist or may require authorization",
            "imagePullSecrets",
        ),
        ("ErrImagePull", "unexpected status from HEAD request: 401 Unauthorized", "imagePullSecrets"),
        ("ErrImagePull", "dial tcp: lookup registry: no such host", ""),
    ],
)
def test_tells_a_wrong_name_from_a_missing_image_and_from_missing_rights(word: str, message: str, words: str) -> None:
    found = find_trouble((), (_waiting(word, message),))

    assert found is not None
    assert found[0].reason is Reason.IMAGE_PULL_FAILED
    assert words in found[0].advice


def test_a_pull_that_backs_off_says_what_it_said_at_first() -> None:
    cause = "failed to resolve reference: not found"

    first = find_trouble((), (_waiting("ErrImagePull", cause),))
    later = find_trouble(
        (), (_waiting("ImagePullBackOff", f'Back-off pulling image "org/image:1": ErrImagePull: {cause}'),)
    )

    assert first == later


def test_an_image_of_lull_itself_is_not_the_users_to_change() -> None:
    found = find_trouble((), (_waiting("ErrImagePull", "not found", container="fetch"),))

    assert found is not None
    assert "spec." not in found[0].advice


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        ('pods "a-x2x7k" is forbidden: exceeded quota: team, requested: pods=1', Reason.QUOTA_EXCEEDED, ""),
        (
            'pods "a" is forbidden: failed quota: team: must specify limits.memory',
            Reason.QUOTA_EXCEEDED,
            "spec.resources",
        ),
        (
            'pods "a" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes',
            Reason.POD_FORBIDDEN,
            "HostPath",
        ),
        (
            'pods "a" is forbidden: maximum cpu usage per Container is 1, but limit is 2',
            Reason.POD_FORBIDDEN,
            "LimitRange",
        ),
        ('admission webhook "x" denied the request: no', Reason.POD_FORBIDDEN, ""),
        ("ValidatingAdmissionPolicy 'x' with binding 'y' denied request: no", Reason.POD_FORBIDDEN, ""),
        ("error looking up service account a/b: serviceaccount not found", Reason.CONFIG_ERROR, "serviceAccountName"),
        ("no PriorityClass with name x was found", Reason.CONFIG_ERROR, "priorityClassName"),
        ('pod rejected: RuntimeClass "x" not found', Reason.CONFIG_ERROR, "runtimeClassName"),
    ],
)
def test_says_why_kubernetes_creates_no_pod(message: str, reason: Reason, words: str) -> None:
    found = find_trouble((_refused(message),), ())

    assert found is not None
    assert found[0].reason is reason
    assert words in found[0].advice
    # Each attempt has another name, which would make each another text.
    assert 'pods "' not in found[0].detail


def test_what_a_workload_says_of_an_earlier_spec_is_nothing() -> None:
    stale = _refused("exceeded quota")
    stale["metadata"]["generation"] = 4

    assert find_trouble((stale,), ()) is None


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("Evicted", 'Usage of EmptyDir volume "models" exceeds the limit "1Gi". ', Reason.DISK_FULL),
        ("Evicted", "The node was low on resource: ephemeral-storage. ", Reason.DISK_FULL),
        ("Evicted", "The node was low on resource: memory. ", Reason.ENGINE_OUT_OF_MEMORY),
        ("Evicted", "The node had condition: [PIDPressure]. ", Reason.UNSCHEDULABLE),
        ("OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu", Reason.INSUFFICIENT_RESOURCES),
        ("UnexpectedAdmissionError", "Allocate failed for nvidia.com/gpu", Reason.INSUFFICIENT_ACCELERATORS),
    ],
)
def test_says_why_a_node_put_a_pod_out(reason: str, message: str, expected: Reason) -> None:
    assert _reason(_pod(phase="Failed", reason=reason, message=message)) is expected


def test_a_pod_that_its_node_ended_in_order_is_no_trouble() -> None:
    assert find_trouble((), (_pod(phase="Failed", reason="Terminated", message="node shutdown"),)) is None


def test_memory_names_its_field() -> None:
    found = find_trouble((), (_ended("", reason="OOMKilled", exitCode=137),))

    assert found is not None
    assert (found[0].reason, found[0].advice) == (Reason.ENGINE_OUT_OF_MEMORY, "Raise spec.resources.memory.")


def test_the_error_of_a_worker_comes_before_that_of_the_core_which_points_at_it() -> None:
    worker = "WorkerProc failed to start.\nTraceback …\ntorch.OutOfMemoryError: CUDA out of memory."
    core = "EngineCore failed to start.\nTraceback …\nException: failed. See stack trace for root cause."

    found = find_trouble((), (_ended(f"{worker}\n{core}\n"),))

    assert found is not None
    assert found[0].reason is Reason.ENGINE_OUT_OF_MEMORY
    assert "CUDA out of memory" in found[0].detail


def _set_up(at: str) -> Manifest:
    return _pod(
        conditions=[
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": at},
            {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": at},
        ],
        containerStatuses=[{"name": "engine", "ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}],
    )


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"model": {"source": "pvc://weights"}}, Reason.VOLUME_PENDING, "volume"),
        ({}, Reason.CONFIG_ERROR, "network"),
    ],
)
def test_a_pod_that_its_node_cannot_set_up_gets_a_word_after_a_minute(
    spec: dict[str, Any], reason: Reason, words: str
) -> None:
    parsed, began = stored(manifest(**spec)).spec, parse_timestamp(AT)

    assert find_trouble((), (_set_up(AT),), Case(parsed, now=began + 59)) is None
    found = find_trouble((), (_set_up(AT),), Case(parsed, now=began + 60))
    assert found is not None
    assert found[0].reason is reason
    assert words in found[0].detail


@pytest.mark.parametrize(
    ("pod", "after", "due"),
    [
        (_set_up(AT), 0.0, 60.0),
        (_set_up(AT), 61.0, 239.0),
        (_set_up(AT), 301.0, None),
        (_unscheduled("0/1 nodes are available: 1 Insufficient cpu."), 100.0, 200.0),
        (_ended("boom"), 0.0, None),
    ],
)
def test_tells_when_time_alone_will_change_the_words(pod: Manifest, after: float, due: float | None) -> None:
    assert find_due((pod,), parse_timestamp(AT) + after) == due


def test_a_claim_that_waits_is_named_with_its_class() -> None:
    # Kubernetes 1.34 adds "not found" where there is no StorageClass either.
    pod = _unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found.")
    claim = {"metadata": {"name": "c"}, "spec": {"storageClassName": "fast"}, "status": {"phase": "Pending"}}

    waiting = find_trouble((), (pod,), Case(claims=(claim,)))
    without_class = find_trouble((), (pod,), Case(claims=({**claim, "spec": {}},)))

    assert waiting is not None
    assert 'PersistentVolumeClaim "c" is not bound by StorageClass "fast"' in waiting[0].detail
    assert without_class is not None
    assert "spec.model.cache.storageClassName" in without_class[0].advice
