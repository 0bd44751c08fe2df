"""`lull status` and `lull doctor` against a real API server, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lull.doors.kube import LLMDEPLOYMENTS, Kube
from tests.integration.conftest import ApiServer
from tests.manifests import manifest


def _lull(apiserver: ApiServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("lull")), *arguments],
        env={**os.environ, "KUBECONFIG": str(apiserver.kubeconfig), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_status_of_an_object_that_no_operator_saw(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    await kube.apply(manifest(namespace=namespace))

    result = _lull(apiserver, "status", "llama-8b", "-n", namespace)

    assert result.returncode == 3, result.stderr
    assert f"{namespace}/llama-8b" in result.stdout
    assert "Unseen" in result.stdout


async def test_status_speaks_json(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    await kube.apply(manifest(namespace=namespace))

    (one,) = json.loads(_lull(apiserver, "status", "-n", namespace, "-o", "json").stdout)

    assert (one["name"], one["servedNames"]) == ("llama-8b", ["llama-8b"])


def test_status_of_nothing(apiserver: ApiServer, namespace: str) -> None:
    result = _lull(apiserver, "status", "-n", namespace)

    assert result.returncode == 0
    assert result.stdout == f"There is no LLMDeployment in namespace {namespace}.\n"


def test_status_of_a_name_that_is_not_there(apiserver: ApiServer, namespace: str) -> None:
    result = _lull(apiserver, "status", "nobody", "-n", namespace)

    assert result.returncode == 1
    assert result.stderr == f"lull status: there is no LLMDeployment nobody in namespace {namespace}\n"


def test_doctor_says_what_is_missing(apiserver: ApiServer) -> None:
    result = _lull(apiserver, "doctor", "-o", "json")

    found = {one["subject"]: one["verdict"] for one in json.loads(result.stdout)}
    assert result.returncode == 1
    # Other tests install LeaderWorkerSets and the chart meanwhile; nothing runs its pods.
    assert found.pop("LeaderWorkerSet") in {"ok", "warn"}
    assert found.pop("RBAC", "ok") == "ok"
    assert found.pop("leader", "fail") == "fail"
    assert found == {
        "Kubernetes": "ok",
        "CRD": "ok",
        "operator": "fail",
        "gateway": "fail",
        "accelerators": "warn",
        "storage": "warn",
        "Prometheus": "warn",
    }


def test_a_cluster_that_is_not_there_is_one_sentence(apiserver: ApiServer) -> None:
    missing = apiserver.kubeconfig.with_name("nowhere")

    result = subprocess.run(
        [str(Path(sys.executable).with_name("lull")), "doctor"],
        env={**os.environ, "KUBECONFIG": str(missing)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("lull doctor: no cluster to ask:")


STATUS = {
    "desiredReplicas": 0,
    "replicas": 0,
    "conditions": [
        {
            "type": "ScalingActive",
            "status": "True",
            "reason": "Scaling",
            "message": "Lull keeps between 0 and 8 replicas.",
            "lastTransitionTime": "2026-11-21T10:00:00Z",
        }
    ],
    "decisions": [
        {
            "at": "2026-11-21T14:02:11.123456Z",
            "fromReplicas": 1,
            "toReplicas": 0,
            "reason": "Idle",
            "message": "1 → 0: no request for 10m; 1 ready, 0 loading",
        }
    ],
    "cost": {
        "currency": "USD",
        "perHour": "0.00",
        "perReplica": "0.8048",
        "price": "1 x NVIDIA-L4 at 0.8048 (a list of 2026-07-20)",
        "month": "2026-11",
        "thisMonth": "3.1234",
        "since": "2026-11-01T00:00:00Z",
        "at": "2026-11-21T14:05:00Z",
    },
}


async def _asleep(kube: Kube, namespace: str, **spec: Any) -> None:
    """An LLMDeployment that an operator has looked at, and that sleeps."""
    written = await kube.apply(manifest(namespace=namespace, **spec))
    await kube.patch_status(LLMDEPLOYMENTS, written, STATUS)


async def _find_wake(kube: Kube, namespace: str) -> str | None:
    found = await kube.get(LLMDEPLOYMENTS, namespace, "llama-8b")
    assert found is not None
    wake: str | None = (found["metadata"].get("annotations") or {}).get("lull.dev/wake")
    return wake


async def test_wake_leaves_a_time_each_time_another_one(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    await _asleep(kube, namespace)

    result = _lull(apiserver, "wake", "llama-8b", "-n", namespace)
    first = await _find_wake(kube, namespace)
    again = json.loads(_lull(apiserver, "wake", "llama-8b", "-n", namespace, "-o", "json").stdout)

    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        "llama-8b is woken; without requests it sleeps 10m after it became ready. `lull status llama-8b -w` follows it.\n"
    )
    assert again["wake"] == await _find_wake(kube, namespace)
    assert again["wake"] != first
    assert first is not None


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"replicas": 0}, "spec.replicas of llama-8b is 0, so Lull does not scale it: kubectl scale llm/llama-8b"),
        ({"scaling": {"mode": "Shadow"}}, "scaling.mode of llama-8b is Shadow"),
        ({"scaling": {"behavior": {"scaleUp": {"selectPolicy": "Disabled"}}}}, "scaleUp of llama-8b is Disabled"),
        ({"scaling": {"idleAfter": "0s"}}, "scaling.idleAfter of llama-8b is 0s"),
    ],
)
async def test_wake_refuses_what_would_not_wake(
    apiserver: ApiServer, kube: Kube, namespace: str, spec: dict[str, Any], problem: str
) -> None:
    await _asleep(kube, namespace, **spec)

    result = _lull(apiserver, "wake", "llama-8b", "-n", namespace)

    assert result.returncode == 1
    assert problem in result.stderr
    assert await _find_wake(kube, namespace) is None


async def test_wake_waits_no_longer_than_told_and_goes_on_waking(
    apiserver: ApiServer, kube: Kube, namespace: str
) -> None:
    await _asleep(kube, namespace)

    result = _lull(apiserver, "wake", "llama-8b", "-n", namespace, "--wait", "--timeout", "2s")

    assert result.returncode == 1
    assert "waits for the operator" in result.stdout
    assert "llama-8b is not ready after 2s, and goes on waking" in result.stderr
    assert await _find_wake(kube, namespace) is not None


async def test_wake_takes_no_replica_that_sleeps_for_one_that_is_awake(
    apiserver: ApiServer, kube: Kube, namespace: str
) -> None:
    written = await kube.apply(manifest(namespace=namespace, scaling={"sleep": {"after": "3m"}}))
    asleep = {**STATUS, "desiredReplicas": 1, "replicas": 1, "readyReplicas": 1, "asleepReplicas": 1}
    await kube.patch_status(LLMDEPLOYMENTS, written, asleep)

    result = _lull(apiserver, "wake", "llama-8b", "-n", namespace)

    assert result.stdout.startswith("llama-8b is woken; without requests it sleeps 3m after it became ready.")


def test_wake_of_a_name_that_is_not_there(apiserver: ApiServer, namespace: str) -> None:
    result = _lull(apiserver, "wake", "nobody", "-n", namespace)

    assert result.returncode == 1
    assert result.stderr == f"lull wake: there is no LLMDeployment nobody in namespace {namespace}\n"


async def test_why_tells_decisions(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    await _asleep(kube, namespace)

    result = _lull(apiserver, "why", "llama-8b", "-n", namespace)
    found = json.loads(_lull(apiserver, "why", "llama-8b", "-n", namespace, "-o", "json").stdout)

    assert result.returncode == 0, result.stderr
    assert "14:02:11: no request for 10m; 1 ready, 0 loading  (Idle, " in result.stdout
    assert "A request, or `lull wake llama-8b`, starts the first replica." in result.stdout
    assert found["decisions"][0]["reason"] == "Idle"
    assert _lull(apiserver, "why", "nobody", "-n", namespace).returncode == 1


async def test_cost_tells_the_price_and_its_date(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    await _asleep(kube, namespace)

    result = _lull(apiserver, "cost", "-n", namespace)
    account = json.loads(_lull(apiserver, "cost", "llama-8b", "-n", namespace, "-o", "json").stdout)

    assert result.returncode == 0, result.stderr
    assert "A replica: 1 x NVIDIA-L4 at 0.8048 (a list of 2026-07-20)." in result.stdout
    assert account["bills"][0]["perHour"] == "0.00"
    assert account["totals"][0]["currency"] == "USD"
    assert _lull(apiserver, "cost", "nobody", "-n", namespace).returncode == 1
