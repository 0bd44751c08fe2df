"""Who is measured: the engine itself, vllm-router with two policies, and Lull."""

from __future__ import annotations

import http.client
import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from bench.gateway.machine import CORES, GATEWAY_CORE, OTHER_CORES, Process, free_ports
from lull.core.keys import digest_of, make_token

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

KEY_ID: Final = "bench"

_PLENTY: Final = 1_000_000_000
"""A limit that is counted and never reached."""
_MANY: Final = 16_384
"""Requests at a time; vllm-router gets as many."""


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
        *("--policy", policy, "--log-level", "warning", "--max-concurrent-requests", str(_MANY)),
    ]
    process = Process(argv, cores=(GATEWAY_CORE,), log=folder / f"router-{policy}.log")
    with running(process, lambda: answers(port, "/readiness")):
        yield Contender(policy, port, process)


@contextmanager
def lull(
    program: str,
    folder: Path,
    *,
    engine_ports: Sequence[int],
    asleep_ports: Sequence[int] = (),
    workers: int = 1,
    **settings: Any,
) -> Iterator[Contender]:
    """Lull as it comes: a key is asked for and has limits, each request that fails has its line in the log."""
    port, admin_port = free_ports(2)
    key = make_token(KEY_ID, secrets.choice)
    limits = dict.fromkeys(("requestsPerMinute", "tokensPerMinute", "tokensPerDay"), _PLENTY)
    config = {
        "models": [
            _serve(MODEL, engine_ports),
            *([_serve(ASLEEP, asleep_ports)] if asleep_ports else []),
        ],
        "keys": {"required": True, "entries": {KEY_ID: {"sha256": digest_of(key), **limits}}},
        "port": port,
        "adminPort": admin_port,
        # What is compared writes no line for a request that goes well.
        "accessLog": "errors",
        **settings,
    }
    file = folder / f"lull-{port}.yaml"
    file.write_text(yaml.safe_dump(config))
    process = Process(
        [program, "gateway", "--config", str(file)],
        cores=(GATEWAY_CORE,) if workers == 1 else CORES,
        log=folder / f"lull-{port}.log",
        environment={"LULL_WORKERS": str(workers)},
    )
    with running(process, lambda: answers(admin_port, "/readyz")):
        yield Contender(LULL, port, process, key=key, admin_port=admin_port)


def _serve(name: str, ports: Sequence[int]) -> dict[str, Any]:
    return {
        "name": name,
        "endpoints": [f"http://127.0.0.1:{port}" for port in ports],
        "maxNumSeqs": _MANY,
        "queue": {"maxHeld": _MANY, "maxHeldBytes": "256Mi"},
    }


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
