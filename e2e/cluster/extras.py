"""What other projects bring into a cluster and tests need there: CRDs, and the controller of LeaderWorkerSet, at pinned versions."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from e2e.cache import cache_folder
from e2e.cluster.archives import write_image
from e2e.cluster.base import Cluster, run
from e2e.cluster.model import ClusterError
from e2e.cluster.tools import Binary, build_binary, find_go, machine_name
from e2e.progress import step, wait_until

LWS_NAMESPACE = "lws-system"
LWS_CRD = "leaderworkersets.leaderworkerset.x-k8s.io"


class Extra(StrEnum):
    """Whose CRD it is."""

    LWS = "lws"
    PODMONITOR = "podmonitor"


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module at one version, by the digest of its content."""

    path: str
    version: str
    digest: str


LWS = Module("sigs.k8s.io/lws", "v0.8.0", "h1:DdhJ8QabwTfWgbgaHH2gdf8twliioHaoSfmDXRYEVU0=")
PROMETHEUS_OPERATOR = Module(
    "github.com/prometheus-operator/prometheus-operator",
    "v0.85.0",
    "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
)
_LWS_IMAGE = f"docker.io/lull/lws:{LWS.version}"
# Its file name is the path that its chart starts.
LWS_MANAGER = Binary("manager", "lws", "sigs.k8s.io/lws/cmd")

_CRDS: Mapping[Extra, tuple[Module, str]] = {
    Extra.LWS: (LWS, "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml"),
    Extra.PODMONITOR: (
        PROMETHEUS_OPERATOR,
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
}


def crds(extra: Extra | str) -> Path:
    """The CRD as its project releases it, from the cache or from its Go module; a file for `kubectl apply`.

    Apply it with `--server-side`: it is too long for kubectl's annotation.
    """
    module, file = _CRDS[Extra(extra)]
    target = cache_folder() / "crds" / module.version / Path(file).name
    if not target.exists():
        source = _download(module) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        # Under a name of its own until it is whole, so that nobody beside this process reads half of it.
        unfinished = target.with_suffix(f".{os.getpid()}")
        shutil.copyfile(source, unfinished)
        unfinished.replace(target)
    return target


def install_lws(cluster: Cluster) -> None:
    """Install the LeaderWorkerSet controller by its own chart; return when it takes and serves objects."""
    archive = _build_lws_archive()
    cluster.load(archive)
    chart = _download(LWS) / "charts" / "lws"
    repository, _, tag = _LWS_IMAGE.rpartition(":")
    with step("install LeaderWorkerSet"):
        _helm(
            cluster,
            *("upgrade", "--install", "lws", str(chart), "--create-namespace", "--wait", "--timeout=5m"),
            *("--set", f"image.manager.repository={repository}", "--set", f"image.manager.tag={tag}"),
            *("--set", "image.manager.pullPolicy=Never", "--set", "resources.requests.cpu=50m"),
            *("--set", "resources.requests.memory=64Mi"),
        )
        # Its pod is ready before its webhooks are.
        if not wait_until(lambda: _takes_groups(cluster), seconds=120, every=0.5):
            raise ClusterError(f"LeaderWorkerSet takes no objects; see the logs in namespace {LWS_NAMESPACE}.")


def uninstall_lws(cluster: Cluster) -> None:
    """Take the controller away, and its CRD with every LeaderWorkerSet."""
    with step("uninstall LeaderWorkerSet"):
        _helm(cluster, "uninstall", "lws", "--ignore-not-found", "--wait")
        kubectl = cluster.client()
        # Both are waited for, or an installation right after this one would lose what it makes.
        run(kubectl.argv("delete", "crd", LWS_CRD, "--ignore-not-found"))
        run(kubectl.argv("delete", "namespace", LWS_NAMESPACE, "--ignore-not-found"))


@contextmanager
def lws_installed(cluster: Cluster) -> Iterator[None]:
    """Have LeaderWorkerSet while the block runs."""
    try:
        install_lws(cluster)
        yield
    finally:
        uninstall_lws(cluster)


def read_download(answer: str, module: Module) -> Path:
    """Find the folder in what `go mod download -json` says; ClusterError unless it is the very content that is pinned."""
    downloaded: dict[str, Any] = json.loads(answer or "{}")
    if "Dir" not in downloaded:
        raise ClusterError(f"{module.path} {module.version} cannot be downloaded: {downloaded.get('Error', answer)}")
    if downloaded["Sum"] != module.digest:
        raise ClusterError(f"{module.path} {module.version} is {downloaded['Sum']}; {module.digest} is expected.")
    return Path(downloaded["Dir"])


def _download(module: Module) -> Path:
    with step(f"find {module.path} {module.version}"):
        answer = subprocess.run(
            [str(find_go().executable), "mod", "download", "-json", f"{module.path}@{module.version}"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"GOTOOLCHAIN": "local", "GOWORK": "off"},
            # No module around it, whose go.mod would have a say in the version.
            cwd="/",
        )
        return read_download(answer.stdout, module)


def _takes_groups(cluster: Cluster) -> bool:
    group = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "trial", "namespace": LWS_NAMESPACE},
        "spec": {
            "leaderWorkerTemplate": {"workerTemplate": {"spec": {"containers": [{"name": "main", "image": "none"}]}}}
        },
    }
    answer = subprocess.run(
        cluster.client().argv("create", "--dry-run=server", "-f", "-"),
        input=json.dumps(group),
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode == 0


def _build_lws_archive() -> Path:
    manager = build_binary(LWS_MANAGER)
    archive = manager.with_name("lws.tar")
    if not archive.exists():
        unfinished = archive.with_name(".lws.tar")
        write_image(unfinished, reference=_LWS_IMAGE, binary=manager, entrypoint=["/manager"], machine=machine_name())
        unfinished.replace(archive)
    return archive


def _helm(cluster: Cluster, *arguments: str) -> None:
    run([str(cluster.helm), "--kubeconfig", str(cluster.kubeconfig), "--namespace", LWS_NAMESPACE, *arguments])
