"""Many at a time: five thousand streams that run or are held, and a hundred thousand connections that are idle."""

from __future__ import annotations

import resource
import time
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import TYPE_CHECKING, Final

from bench.claims import Claim
from bench.gateway.contenders import ASLEEP, answers, lull
from bench.gateway.generator import ask
from bench.gateway.machine import CORES
from e2e.progress import say, step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from bench.gateway.contenders import Contender
    from bench.gateway.generator import Reading

CROWD: Final = 5000
MEMORY: Final = 300
PROBE: Final = 100
"""Milliseconds in which a probe is to be answered."""
PAUSE: Final = 0.2
"""Between two probes; a kubelet is more patient."""
PROBES: Final = ("/healthz", "/readyz")

IDLE: Final = 100_000
IDLE_TIMES: Final = {"ramp": 50, "warm": 52, "seconds": 18}
"""All of it is over before the gateway closes a connection that has been silent for 75 s."""
OTHERS: Final = {"connections": 8, "idle": 0.1, "ramp": 1, "warm": 52, "seconds": 12}
"""They are done before the crowd leaves, all at once."""
IDLE_MEMORY: Final = 16.0
"""Kilobytes."""
PART: Final = 12_000
"""Of them from one address: of 28,000 ports Linux takes every other one first, and looks long for the rest."""
SPARE: Final = 2500
"""Files of a process for what is not in the crowd, and for a port that gives one process more than another."""


def measure_crowd(load: str, gateway: Contender) -> list[Claim]:
    """Five thousand streams at five tokens a second each."""
    options = {"connections": CROWD, "tokens": 25, "rate": 5, "ramp": 4, "warm": 6, "seconds": 6}
    with step(f"{CROWD:,} streams"):
        reading = ask(load, gateway, options)
    subject = f"{CROWD:,} streams on one core"
    return [
        Claim(f"{subject}: errors", sum(reading.errors.values()), 0, "", 1),
        Claim(f"{subject}: open", reading.open, CROWD, "", 1, at_least=True),
        Claim(f"{subject}: SSE events/s", reading.events, None, "", 1),
        Claim(f"{subject}: time between events, p99", reading.gap, None, "ms", 1),
        Claim(f"{subject}: memory at most", gateway.process.read_memory(), None, "MB", 1),
    ]


def measure_held(load: str, gateway: Contender) -> list[Claim]:
    """Five thousand streaming requests for a model that nobody serves yet, and probes meanwhile."""
    before = gateway.process.read_memory()
    options: dict[str, float | str] = {
        "model": ASLEEP,
        "connections": CROWD,
        "tokens": 25,
        "hold": "true",
        "ramp": 4,
        "warm": 6,
        "seconds": 6,
    }
    with step(f"{CROWD:,} held"), ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, load, gateway, options)
        waits = _probe(gateway.admin_port, asking)
        reading = asking.result()
    subject = f"{CROWD:,} held streaming requests"
    return [
        Claim(f"{subject}: held", reading.open, CROWD, "", 1, at_least=True),
        Claim(f"{subject}: errors", sum(reading.errors.values()), 0, "", 1),
        Claim(f"{subject}: memory before", before, None, "MB", 1),
        Claim(f"{subject}: memory at most", gateway.process.read_memory(), MEMORY, "MB", 1),
        Claim(f"{subject}: slowest probe meanwhile", max(waits), PROBE, "ms", len(waits)),
    ]


def measure_idle(load: str, program: str, folder: Path, engine_ports: Sequence[int]) -> list[Claim]:
    """A hundred thousand connections, each silent after its first answer, and eight that ask all the time.

    One process may have fewer files open than that, so the gateway is several, and so is the crowd.
    """
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    processes = max(len(CORES), ceil(IDLE / (files - SPARE)))
    parts = ceil(IDLE / PART)
    with (
        lull(program, folder, engine_ports=engine_ports, workers=processes, maxConnections=2 * IDLE) as gateway,
        step(f"{IDLE:,} idle connections to {processes} processes"),
        ThreadPoolExecutor(parts + 1) as pool,
    ):
        before = gateway.process.read_memory()
        crowds = [
            pool.submit(
                ask,
                load,
                gateway,
                {
                    **IDLE_TIMES,
                    "connections": size,
                    "source": f"127.0.1.{part + 1}",
                    "idle": 2 * sum(IDLE_TIMES.values()),
                },
                cores=CORES,
            )
            for part, size in enumerate(_divide(IDLE, parts))
        ]
        asking = pool.submit(ask, load, gateway, OTHERS, cores=CORES)
        waits = _probe(gateway.admin_port, asking)
        readings = [crowd.result() for crowd in crowds]
        served = asking.result()
        memory = gateway.process.read_memory()
    errors = [reading.errors for reading in (*readings, served) if reading.errors]
    if errors:
        say(f"    {errors}")
    subject = f"{IDLE:,} idle connections to {processes} processes"
    return [
        Claim(f"{subject}: open", sum(reading.open for reading in readings), IDLE, "", 1, at_least=True),
        Claim(f"{subject}: errors", sum(sum(each.values()) for each in errors), 0, "", 1),
        Claim(f"{subject}: memory at most", memory, None, "MB", 1),
        Claim(f"{subject}: memory for each", (memory - before) * 1000 / IDLE, IDLE_MEMORY, "kB", IDLE),
        Claim(f"{subject}: requests of others, p99", served.p99, None, "ms", served.answered),
        Claim(f"{subject}: requests of others, slowest", served.slowest, None, "ms", served.answered),
        Claim(f"{subject}: slowest probe meanwhile", max(waits), None, "ms", len(waits)),
    ]


def _divide(number: int, parts: int) -> list[int]:
    return [number * (part + 1) // parts - number * part // parts for part in range(parts)]


def _probe(port: int, asking: Future[Reading]) -> list[float]:
    """Milliseconds that each probe took until the load generator was done."""
    waits: list[float] = []
    while not asking.done():
        for path in PROBES:
            began = time.monotonic()
            if not answers(port, path):
                raise RuntimeError(f"{path} did not answer 200.")
            waits.append((time.monotonic() - began) * 1000)
        time.sleep(PAUSE)
    return waits
