"""Who is measured: the engine itself, vllm-router with two policies, and Lull."""

from __future__ import annotations

import http.client
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.gateway.machine import GATEWAY_CORE, OTHER_CORES, Process, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

DIRECT: Final = "direct"
LULL: Final = "lull"
ROUTER_POLICIES: Final = ("round_robin", "cache_aware")
MODEL: Final = "mock"
ASLEEP: Final = "asleep"
"""A model that Lull knows, and that no engine serves."""
ENGINES: Final = 4
READY_SECONDS: Final = 60

_PLENTY: Final = 1_000_000_000
"""A limit that is counted and never reached."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that answers like an engine."""

    name: str
    port: int
    process: Process
    model: str = MODEL
    key: str = ""
    admin_port: int = 0


@contextmanager
def running(process: Process, is_ready: Callable[[], bool]) -> Iterator[Process]:
    """Wait until a process is ready; end it with the block."""
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not is_ready():
            process.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"Not ready after {READY_SECONDS} s.")
            time.sleep(0.1)
        yield process
    finally:
        process.stop()


@contextmanager
def engines(program: str, folder: Path, *, asleep: bool = False) -> Iterator[tuple[Contender, list[int]]]:
    """One process of the mock engine with the ports of several."""
    ports = free_ports(ENGINES)
    argv = [program, "-port", str(ports[0]), "-ports", str(len(ports)), *(["-asleep"] if asleep else [])]
    process = Process(argv, cores=OTHER_CORES, log=folder / f"engine-{ports[0]}.log")
    with running(process, lambda: answers(ports[-1], "/v1/models")):
        yield Contender(DIRECT, ports[0], process), ports


@contextmanager
def router(program: str, folder: Path, *, policy: str, engine_ports: Sequence[int]) -> Iterator[Contender]:
    """vllm-router as its users start it, less what its log costs and with room for as many requests as there are."""
    port, metrics_port = free_ports(2)
    argv = [
        program,
        *("--worker-urls", *(f"http://127.0.0.1:{one}" for one in engine_ports)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port)),
        *("--policy", policy, "--log-level", "warning", "--max-concurrent-requests", "16384"),
    ]
    process = Process(argv, cores=(GATEWAY_CORE,), log=folder / f"router-{policy}.log")
    with running(process, lambda: answers(port, "/readiness")):
        yield Contender(policy, port, process)


@contextmanager
def lull(
    folder: Path, *, engine_ports: Sequence[int], asleep_ports: Sequence[int] = (), workers: int = 1
) -> Iterator[Contender]:
    """Lull with a key that has limits, and everything else as it comes."""
    port, admin_port = free_ports(2)
    secret, entry = make_key()
    config = {
        "models": [
            {"name": MODEL, **_serve(engine_ports)},
            *([{"name": ASLEEP, **_serve(asleep_ports)}] if asleep_ports else []),
        ],
        "keys": {},
        "port": port,
        "adminPort": admin_port,
        "maxPendingBytes": 1 << 30,
    }
    file = folder / f"lull-{port}.yaml"
    file.write_text(yaml.safe_dump(config))
    process = Process(
        [str(Path(sys.executable).with_name("lull")), "gateway", "--config", str(file)],
        cores=(GATEWAY_CORE,) if workers == 1 else CORES,
        log=folder / f"lull-{port}.log",
        environment={"LULL_WORKERS": str(workers)},
    )
    with running(process, lambda: answers(admin_port, "/readyz")):
        yield Contender(LULL, port, process, key=secret, admin_port=admin_port)


def answers(port: int, path: str, *, key: str = "", seconds: float = 2.0) -> bool:
    """Whether GET of a path gets 200 in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
