"""A real etcd and kube-apiserver on loopback, for as long as the session lasts."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from e2e.cluster.pki import Identity, write_pki
from e2e.cluster.tools import build_toolbox
from lull.doors.kube import Kube, connect
from tests.fakes.ports import free_port

READY_SECONDS = 60.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ApiServer:
    """A running API server."""

    url: str
    kubeconfig: Path
    kubectl_path: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints, both streams; AssertionError with it where it fails."""
        result = subprocess.run(
            [str(self.kubectl_path), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0 or not check, result.stdout
        return result.stdout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a session may have to build Kubernetes before it runs."""
    for item in items:
        if "tests/integration/" in item.nodeid and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120, func_only=True))


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server of its own: no controllers, no nodes, so that what is written stays as it was written."""
    folder = tmp_path_factory.mktemp("apiserver")
    with start_apiserver(folder) as server:
        server.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "llmdeployments.lull.dev.yaml"))
        # The schema reaches discovery a moment after it is established; kubectl validates and explains by it.
        wait_until(lambda: "KIND:" in server.kubectl("explain", "llmdeployment", check=False), folder)
        yield server


@contextmanager
def start_apiserver(folder: Path, *flags: str) -> Iterator[ApiServer]:
    """An API server with nothing on it, told these flags besides."""
    tools = _find_tools()
    write_pki(folder / "pki", _identities(), now=dt.datetime.now(dt.UTC))
    client_port, peer_port, api_port = (free_port() for _ in range(3))
    kubeconfig = _write_kubeconfig(folder, api_port)
    serve = [*_apiserver_command(tools["kube-apiserver"], folder, client_port, api_port), *flags]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.append(_start(folder, _etcd_command(tools["etcd"], folder, client_port, peer_port)))
        processes.append(_start(folder, serve))
        _wait_ready(folder, api_port, processes)
        yield ApiServer(f"https://127.0.0.1:{api_port}", kubeconfig, tools["kubectl"])
    finally:
        # The API server does not stop by SIGTERM once etcd is gone, so it goes first.
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def namespace(apiserver: ApiServer, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    digest = abs(hash(request.node.nodeid)) % 10**10
    name = f"test-{digest}"
    apiserver.kubectl("create", "namespace", name)
    return name


@pytest.fixture
async def kube(apiserver: ApiServer) -> AsyncIterator[Kube]:
    """Lull's own door to the API server."""
    async with connect(str(apiserver.kubeconfig)) as connection:
        yield connection


def _find_tools() -> dict[str, Path]:
    names = ("etcd", "kube-apiserver", "kubectl")
    if folder := os.environ.get("LULL_TEST_BINARIES"):
        return {name: Path(folder) / name for name in names}
    toolbox = build_toolbox()
    return {name: toolbox[name] for name in names}


def _identities() -> list[Identity]:
    return [
        Identity("apiserver", "kube-apiserver", names=("localhost",), addresses=("127.0.0.1",)),
        Identity("admin", "admin", organization="system:masters"),
    ]


def _etcd_command(etcd: Path, folder: Path, client_port: int, peer_port: int) -> list[str]:
    return [
        str(etcd),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client_port}",
        f"--advertise-client-urls=http://127.0.0.1:{client_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-cluster=default=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
    ]


def _apiserver_command(apiserver: Path, folder: Path, etcd_port: int, port: int) -> list[str]:
    pki = folder / "pki"
    return [
        str(apiserver),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--authorization-mode=RBAC",
        # No controller manager makes service accounts here.
        "--disable-admission-plugins=ServiceAccount",
    ]


def _start(folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
    name = Path(command[0]).name
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _wait_ready(folder: Path, port: int, processes: list[subprocess.Popen[bytes]]) -> None:
    pki = folder / "pki"
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def is_ready() -> bool:
        assert all(process.poll() is None for process in processes), _logs(folder)
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{port}/readyz", context=context, timeout=5):
                return True
        except OSError:
            return False

    wait_until(is_ready, folder)


def wait_until(is_there: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not is_there():
        assert time.monotonic() < deadline, _logs(folder)
        time.sleep(0.2)


def _logs(folder: Path) -> str:
    return "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in folder.glob("*.log"))


def _write_kubeconfig(folder: Path, port: int) -> Path:
    pki = folder / "pki"
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "test",
                        "cluster": {
                            "server": f"https://127.0.0.1:{port}",
                            "certificate-authority": str(pki / "ca.crt"),
                        },
                    }
                ],
                "users": [
                    {
                        "name": "admin",
                        "user": {
                            "client-certificate": str(pki / "admin.crt"),
                            "client-key": str(pki / "admin.key"),
                        },
                    }
                ],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
                "current-context": "test",
            }
        )
    )
    return path
