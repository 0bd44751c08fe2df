"""The chart against a real API server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from e2e.cluster.extras import crds
from e2e.cluster.tools import find_clients
from lull.doors.kube import LEASES
from lull.doors.lease import Lease, LeaseLost, LeaseName
from tests.integration.conftest import ApiServer, start_apiserver, wait_until
from tests.manifests import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lull.doors.kube import Kube

CHART = Path(__file__).parents[2] / "charts" / "lull"
CRD = "llmdeployments.lull.dev"
# The CRD is there already, installed by the fixture.
VALUES = ("--set=crds.install=false", "--set=rbac.scope=namespaced")

# Every part of the chart at once.
_POD = {
    "podAnnotations": {"example.com/a": "b"},
    "podLabels": {"example.com/a": "b"},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["system"]}]}]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}}
            ]
        },
    },
    "topologySpreadConstraints": [
        {"maxSkew": 1, "minDomains": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "priorityClassName": "system-cluster-critical",
    "extraEnv": [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b", "optional": True}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ],
}
FULL = {
    "commonLabels": {"team": "a"},
    "commonAnnotations": {"example.com/a": "b"},
    "image": {"registry": "registry.example.com", "digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "pull"}]},
    "operator": _POD,
    "gateway": {
        **_POD,
        "autoscaling": {
            "enabled": True,
            "behavior": {
                "scaleDown": {
                    "stabilizationWindowSeconds": 600,
                    "selectPolicy": "Min",
                    "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}],
                }
            },
        },
        "service": {"type": "LoadBalancer", "annotations": {"example.com/a": "b"}},
    },
    "networkPolicy": {
        "clients": [
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}, "podSelector": {}},
        ]
    },
    "monitoring": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "namespace": "lull-system"}}
    ],
}


@dataclass(frozen=True)
class Helm:
    """The helm command, in one namespace of one API server."""

    kubeconfig: Path
    namespace: str
    home: Path

    def __call__(self, *arguments: str) -> str:
        folder = os.environ.get("LULL_TEST_BINARIES")
        path = Path(folder) / "helm" if folder else find_clients()["helm"]
        result = subprocess.run(
            [str(path), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout


@pytest.fixture
def helm(apiserver: ApiServer, namespace: str, tmp_path: Path) -> Helm:
    return Helm(apiserver.kubeconfig, namespace, tmp_path)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server without our CRD, for Helm to bring it."""
    folder = tmp_path_factory.mktemp("empty")
    with start_apiserver(folder) as server:
        server.kubectl("apply", "--server-side", "-f", str(crds("podmonitor")))
        wait_until(lambda: "podmonitors" in server.kubectl("api-resources", check=False), folder)
        server.kubectl("create", "namespace", "lull-system")
        yield server


@pytest.fixture
def owner(empty: ApiServer, tmp_path: Path) -> Iterator[Helm]:
    """Helm, on the API server whose CRD it owns."""
    helm = Helm(empty.kubeconfig, "lull-system", tmp_path)
    yield helm
    helm("uninstall", "lull", "--ignore-not-found")
    empty.kubectl("delete", "crd", CRD, "--ignore-not-found")


def test_installs_upgrades_and_leaves_nothing(apiserver: ApiServer, namespace: str, helm: Helm) -> None:
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
    apiserver: ApiServer, namespace: str, kube: Kube, helm: Helm
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


def test_pods_pass_the_restricted_profile(apiserver: ApiServer, namespace: str, helm: Helm) -> None:
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
        ("operator", "delete", "pods", "yes"),
        ("operator", "create", "pods", "no"),
        ("gateway", "watch", "pods", "yes"),
        ("gateway", "delete", "pods", "no"),
        ("gateway", "patch", "llmdeployments.lull.dev/status", "no"),
        ("gateway", "get", "secrets", "no"),
    ],
)
def test_rights_are_those_of_the_part(
    apiserver: ApiServer,
    namespace: str,
    helm: Helm,
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


def columns(server: ApiServer) -> list[str]:
    crd = json.loads(server.kubectl("get", "crd", CRD, "-o", "json"))
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


def create_model(server: ApiServer) -> str:
    """An LLMDeployment; its uid."""

    def is_served() -> bool:
        return CRD in server.kubectl("api-resources", "--cached=false", "-o", "name", check=False)

    wait_until(is_served, server.kubeconfig.parent)
    server.kubectl("apply", "-f", "-", stdin=json.dumps(manifest(name="kept")))
    return find_uid(server)


def find_uid(server: ApiServer) -> str:
    return server.kubectl("get", "llmdeployment", "kept", "-o", "jsonpath={.metadata.uid}")


def test_an_upgrade_brings_the_new_crd_and_leaves_its_objects_alone(
    empty: ApiServer, owner: Helm, tmp_path: Path
) -> None:
    older = shutil.copytree(CHART, tmp_path / "older")
    crd = yaml.safe_load((older / "files" / f"{CRD}.yaml").read_text())
    *kept, removed = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    crd["spec"]["versions"][0]["additionalPrinterColumns"] = kept
    (older / "files" / f"{CRD}.yaml").write_text(yaml.safe_dump(crd))

    owner("install", "lull", str(older))
    before, uid = columns(empty), create_model(empty)
    owner("upgrade", "lull", str(CHART))

    assert removed["name"] not in before
    assert columns(empty) == [*before, removed["name"]]
    assert find_uid(empty) == uid


def test_an_uninstall_keeps_the_models_for_the_next_install(empty: ApiServer, owner: Helm) -> None:
    owner("install", "lull", str(CHART))
    uid = create_model(empty)

    said = owner("uninstall", "lull")
    kept = find_uid(empty)
    owner("install", "lull", str(CHART), "--set=logLevel=debug")

    assert f"[CustomResourceDefinition] {CRD}" in said
    assert (kept, find_uid(empty)) == (uid, uid)


def test_an_uninstall_takes_the_models_along_where_that_was_asked_for(empty: ApiServer, owner: Helm) -> None:
    owner("install", "lull", str(CHART), "--set=crds.keep=false")
    create_model(empty)

    owner("uninstall", "lull")

    wait_until(lambda: CRD not in empty.kubectl("get", "crd", "-o", "name"), empty.kubeconfig.parent)


def test_models_can_be_kept_by_a_later_decision(empty: ApiServer, owner: Helm) -> None:
    owner("install", "lull", str(CHART), "--set=crds.keep=false")
    uid = create_model(empty)
    owner("upgrade", "lull", str(CHART), "--set=crds.keep=true")

    owner("upgrade", "lull", str(CHART), "--set=crds.install=false")

    assert find_uid(empty) == uid


@pytest.mark.parametrize("scope", ["cluster", "namespaced"])
def test_the_api_server_takes_everything_that_can_be_rendered(
    empty: ApiServer, owner: Helm, tmp_path: Path, scope: str
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({**FULL, "rbac": {"scope": scope}}))

    rendered = owner("template", "lull", str(CHART), f"--values={values}")
    answer = empty.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered)

    created = [line.split()[0] for line in answer.splitlines() if line.endswith("(server dry run)")]
    documents = [document for document in yaml.safe_load_all(rendered) if document]
    assert len(created) == len(documents)
    assert len(documents) > 20
