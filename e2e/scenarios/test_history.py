"""What earlier days ask for, from a Prometheus in the cluster that comes, goes, and comes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from e2e.lab import sim_deployment
from e2e.scenarios.clients import ask
from e2e.scenarios.conftest import PROMETHEUS_NAMESPACE, PROMETHEUS_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab import Installation, Lab
    from lull.api.llmdeployment import Manifest

LABELS = {"app": "prometheus"}
NAME = "hourly"


@pytest.fixture(scope="module")
def image(installation: Installation) -> Iterator[str]:
    """Prometheus, loaded into the cluster; its namespace, and a Service before anybody listens."""
    reference = installation.load("prometheus")
    metadata = {"name": "prometheus", "namespace": PROMETHEUS_NAMESPACE}
    port = {"port": PROMETHEUS_PORT, "targetPort": 9090}
    installation.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PROMETHEUS_NAMESPACE}},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": LABELS, "ports": [port]}},
    )
    yield reference
    installation.kubectl("delete", "namespace", PROMETHEUS_NAMESPACE, "--wait=true")


async def test_earlier_days_keep_replicas_ready_and_without_prometheus_requests_still_do(lab: Lab, image: str) -> None:
    prometheus = build_prometheus(image, lab.namespace)
    await lab.apply(prometheus)
    await until_serving(lab)
    await lab.apply(sim_deployment(lab.installation, NAME, scaling={"maxReplicas": 2, "forecast": {"days": 5}}))
    await lab.until_replicas(NAME, 2)
    assert " asks for " in await explain(lab)
    assert (await lab.llm(NAME))["status"]["decisions"][-1]["reason"] == "Forecast"

    await kubectl(lab, "delete", "pod", "prometheus", "--force", "--grace-period=0")
    # Another forecast is asked for, and what the one before said counts no more.
    await lab.kubectl("patch", "llm", NAME, "--type=merge", "-p", '{"spec": {"scaling": {"forecast": {"days": 4}}}}')
    await lab.until(
        f"{NAME}: Prometheus is missed", lambda: says(lab, "The forecast is not used: Prometheus does not answer")
    )
    await lab.until_replicas(NAME, 0)
    answer = await ask(lab, NAME)
    assert answer.choices[0].message.content
    await lab.until_condition(NAME, "ScalingActive", "True", "Scaling")

    await lab.apply(prometheus)
    await lab.until_replicas(NAME, 2)
    await lab.until(f"{NAME}: Prometheus is heard", lambda: says(lab, " asks for "))


def build_prometheus(image: str, namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "prometheus", "namespace": PROMETHEUS_NAMESPACE, "labels": LABELS},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "prometheus",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "args": [namespace, NAME],
                    "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "securityContext": {"fsGroup": 65534},
        },
    }


async def until_serving(lab: Lab) -> None:
    await kubectl(lab, "wait", "--for=condition=Ready", "pod/prometheus", "--timeout=240s")


async def kubectl(lab: Lab, *arguments: str) -> str:
    return await asyncio.to_thread(lab.installation.kubectl, "--namespace", PROMETHEUS_NAMESPACE, *arguments)


async def explain(lab: Lab) -> str:
    """What the condition ScalingActive says."""
    conditions = (await lab.llm(NAME))["status"]["conditions"]
    return next(str(one["message"]) for one in conditions if one["type"] == "ScalingActive")


async def says(lab: Lab, words: str) -> bool:
    return words in await explain(lab)
