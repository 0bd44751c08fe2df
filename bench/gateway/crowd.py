"""Five thousand at a time: streams that run, and requests that are held."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from bench.claims import Claim
from bench.gateway.contenders import ASLEEP, answers
from bench.gateway.generator import ask
from e2e.progress import step

if TYPE_CHECKING:
    from concurrent.futures import Future

    from bench.gateway.contenders import Contender
    from bench.gateway.generator import Reading

CROWD: Final = 5000
MEMORY: Final = 300
PROBE: Final = 100
"""Milliseconds in which a probe is to be answered."""
PAUSE: Final = 0.2
"""Between two probes; a kubelet is more patient."""
PROBES: Final = ("/healthz", "/readyz")


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
