"""What other projects bring into a cluster and tests need there: their CRDs, at pinned versions, out of their Go modules."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from e2e.cache import cache_folder
from e2e.cluster.model import ClusterError
from e2e.cluster.tools import find_go
from e2e.progress import step


class Extra(StrEnum):
    """Whose CRD it is."""

    LWS = "lws"
    PODMONITOR = "podmonitor"


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module at one version, by the digest of its content, and a file in it."""

    path: str
    version: str
    digest: str
    file: str


CRDS: Mapping[Extra, Module] = {
    Extra.LWS: Module(
        "sigs.k8s.io/lws",
        "v0.8.0",
        "h1:DdhJ8QabwTfWgbgaHH2gdf8twliioHaoSfmDXRYEVU0=",
        "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml",
    ),
    Extra.PODMONITOR: Module(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
}


def crds(extra: Extra | str) -> Path:
    """The CRD as its project releases it, from the cache or from its Go module; a file for `kubectl apply`.

    Apply it with `--server-side`: it is too long for kubectl's annotation.
    """
    module = CRDS[Extra(extra)]
    target = cache_folder() / "crds" / module.version / Path(module.file).name
    if not target.exists():
        with step(f"download {module.path} {module.version}"):
            source = _download(module)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Under a name of its own until it is whole, so that nobody beside this process reads half of it.
        unfinished = target.with_suffix(f".{os.getpid()}")
        shutil.copyfile(source, unfinished)
        unfinished.replace(target)
    return target


def read_download(answer: str, module: Module) -> Path:
    """Find the file in what `go mod download -json` says; ClusterError unless it is the very content that is pinned."""
    downloaded: dict[str, Any] = json.loads(answer or "{}")
    if "Dir" not in downloaded:
        raise ClusterError(f"{module.path} {module.version} cannot be downloaded: {downloaded.get('Error', answer)}")
    if downloaded["Sum"] != module.digest:
        raise ClusterError(f"{module.path} {module.version} is {downloaded['Sum']}; {module.digest} is expected.")
    return Path(downloaded["Dir"]) / module.file


def _download(module: Module) -> Path:
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
