"""The chart against a real API server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e.cluster.tools import find_clients
from lull.doors.kube import LEASES
from lull.doors.lease import Lease, LeaseLost, LeaseName

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.doors.kube import Kube
    from tests.integration.conftest import ApiServer

CHART = Path(__file__).parents[2] / "charts" / "lull"
# The CRD is there already, installed by the fixture.
VALUES = ("--set=crds.install=false", "--set=rbac.scope=namespaced")


@pytest.fixture
def helm(apiserver: ApiServer, namespace: str, tmp_path: Path) -> Callable[..., str]:
    folder = os.environ.get("LULL_TEST_BINARIES")
    path = Path(folder) / "helm" if folder else find_clients()["helm"]

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [str(path), f"--kubeconfig={apiserver.kubeconfig}", f"--namespace={namespace}", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    return run


def test_installs_upgrades_and_leaves_nothing(apiserver: ApiServer, namespace: str, helm: Callable[..., str]) -> None:
    kinds = (
        "leases,deployments,services,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,secrets"
    )

    def objects() -> set[str]:
        return set(apiserver.kubectl("-n", namespace, "get", kinds, "-o", "name").split())

    before = objects()

    notes = helm("install", "lull", str(CHART), *VALUES)
    installed = objects()
    helm("upgrade", "lull", str(CHART), *VALUES, "--set=gateway.replicas=3")
    helm("uninstall", "lull")

    assert f"kubectl get llm -w -n {namespace}" in notes
    assert {"deployment.apps/lull-operator", "deployment.apps/lull-gateway", "service/lull-gateway-admin"} <= installed
    assert objects() - {line for line in before if line} <= {"No", "resources", "found"}


async def test_an_uninstall_takes_the_lease_along_that_an_upgrade_leaves_alone(
    apiserver: ApiServer, namespace: str, kube: Kube, helm: Callable[..., str]
) -> None:
    first, second = (
        Lease(kube, LeaseName(namespace, "lull-operator", holder=holder, seconds=3.0)) for holder in ("a", "b")
    )
    await asyncio.to_thread(helm, "install", "lull", str(CHART), *VALUES)
    await first.acquire()
    keeping, waiting = asyncio.ensure_future(first.keep()), asyncio.ensure_future(second.acquire())

    await asyncio.to_thread(helm, "upgrade", "lull", str(CHART), *VALUES, "--set=operator.replicas=3")
    upgraded = await kube.get(LEASES, namespace, "lull-operator")
    await asyncio.to_thread(helm, "uninstall", "lull")
    with pytest.raises(LeaseLost, match="nobody holds it"):
        await keeping
    waiting.cancel()
    await first.release()

    assert upgraded is not None
    assert upgraded["spec"]["holderIdentity"] == "a"
    assert upgraded["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    assert await kube.get(LEASES, namespace, "lull-operator") is None


def test_pods_pass_the_restricted_profile(apiserver: ApiServer, namespace: str, helm: Callable[..., str]) -> None:
    apiserver.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    helm("install", "lull", str(CHART), *VALUES)

    for component in ("operator", "gateway"):
        deployment = json.loads(
            apiserver.kubectl("-n", namespace, "get", "deployment", f"lull-{component}", "-o", "json")
        )
        pod = {"apiVersion": "v1", "kind": "Pod", **deployment["spec"]["template"]}
        pod["metadata"]["name"] = component
        answer = apiserver.kubectl("-n", namespace, "apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
        assert f"pod/{component} created" in answer


@pytest.mark.parametrize(
    ("account", "verb", "resource", "allowed"),
    [
        ("operator", "patch", "deployments.apps/scale", "yes"),
        ("operator", "patch", "llmdeployments.lull.dev/status", "yes"),
        ("operator", "update", "leases.coordination.k8s.io/lull-operator", "yes"),
        ("operator", "update", "leases.coordination.k8s.io/another", "no"),
        ("operator", "patch", "llmdeployments.lull.dev", "no"),
        ("operator", "get", "secrets", "no"),
        ("operator", "delete", "pods", "no"),
        ("gateway", "watch", "pods", "yes"),
        ("gateway", "patch", "llmdeployments.lull.dev/status", "no"),
        ("gateway", "get", "secrets", "no"),
    ],
)
def test_rights_are_those_of_the_part(
    apiserver: ApiServer,
    namespace: str,
    helm: Callable[..., str],
    *,
    account: str,
    verb: str,
    resource: str,
    allowed: str,
) -> None:
    helm("install", "lull", str(CHART), *VALUES)
    kind, _, part = resource.partition("/")
    what = (resource,) if kind.startswith("leases") else (kind, f"--subresource={part}")

    answer = apiserver.kubectl(
        *("-n", namespace, "auth", "can-i", verb, *what),
        f"--as=system:serviceaccount:{namespace}:lull-{account}",
        check=False,
    )

    assert answer.split()[-1] == allowed
