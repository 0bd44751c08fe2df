"""`lull status` and `lull doctor` against a real API server, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lull.doors.kube import Kube
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
