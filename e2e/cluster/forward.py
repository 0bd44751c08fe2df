"""Port forwards that last: a small process of its own per Service that starts kubectl again whenever that ends.

Its life hangs on one file. When the file is gone or names another process, it ends, so nobody has to hunt for it.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from e2e.cluster.model import ClusterError
from e2e.cluster.nodes import Kubectl
from e2e.progress import wait_until

_GLANCE = 0.3
_SUPERVISE = "from e2e.cluster.forward import detach; detach()"


def ensure(folder: Path, kubectl: Kubectl, *, namespace: str, name: str, port: int) -> int:
    """Forward a port of this machine to a Service unless that is done already; return the port."""
    record = folder / "forwards" / f"{namespace}.{name}.{port}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    if (local := _local_port(record)) and _listens(local):
        return local
    local = _free_port()
    argv = kubectl.argv(
        "port-forward", f"--namespace={namespace}", "--address=127.0.0.1", f"service/{name}", f"{local}:{port}"
    )
    # The child steps out of this process's session and its parent ends at once, so that nothing here has to wait for it.
    subprocess.run(
        [sys.executable, "-c", _SUPERVISE, str(record), str(local), *argv],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    if not wait_until(lambda: _listens(local), seconds=20):
        record.unlink(missing_ok=True)
        log = record.with_suffix(".log")
        said = log.read_text().strip().splitlines()[-1:] if log.exists() else []
        raise ClusterError(f"Cannot forward to service {namespace}/{name}: {' '.join(said) or 'no pod is ready'}.")
    return local


def stop_all(folder: Path) -> None:
    """End every forward of a cluster; return when they have ended."""
    ports = []
    for record in (folder / "forwards").glob("*.json"):
        ports.append(_local_port(record))
        record.unlink(missing_ok=True)
    wait_until(lambda: not any(port and _listens(port) for port in ports), seconds=5)


def detach() -> None:
    """Supervise in a process that has left its session, as the command line says; return at once."""
    if os.fork() == 0:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        supervise(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])


def supervise(record: Path, local: int, argv: list[str]) -> None:
    """Keep kubectl running as long as the record names this process."""
    record.write_text(json.dumps({"pid": os.getpid(), "port": local}))
    kubectl = None
    try:
        while _owner(record) == os.getpid():
            if kubectl is None or kubectl.poll() is not None:
                with record.with_suffix(".log").open("w") as log:
                    kubectl = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            time.sleep(_GLANCE)
    finally:
        if kubectl is not None:
            kubectl.kill()
            kubectl.wait()


def _local_port(record: Path) -> int | None:
    try:
        return int(json.loads(record.read_text())["port"])
    except (OSError, ValueError):
        return None


def _owner(record: Path) -> int | None:
    try:
        return int(json.loads(record.read_text())["pid"])
    except (OSError, ValueError):
        return None


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
