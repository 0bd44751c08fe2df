"""Two processes behind one port, against one.

Where there are cores enough, each process has one, and the mock engine and the load generator have others. On two
cores something has to give: there each process gets three tenths of a core (cpu.cfs_quota_us, or cpu.max), so that the
processes are what is short and the rest of both cores is enough for the engine and the generator. Either way one
process and two have the same share each, and what is compared is what they answer in the same time.

Where such shares cannot be given, because this runs in somebody's container, it is requests per second of CPU that are
compared, times two; that sees what two processes cost each other, but not whether the port divides connections evenly.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

from bench.claims import Claim
from bench.gateway.contenders import lull
from bench.gateway.generator import ask
from bench.gateway.machine import CORES, limited, pin
from e2e.progress import say, step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.gateway.contenders import Contender
    from bench.gateway.generator import Reading

ROUNDS: Final = 3
CONNECTIONS: Final = 256
SHARE: Final = 0.3
LEAST: Final = 1.8


def measure_scaling(
    load: str, program: str, folder: Path, engine_ports: Sequence[int], *, seconds: float
) -> list[Claim]:
    """Let one process and two answer in turns."""
    with (
        lull(program, folder, engine_ports=engine_ports) as one,
        lull(program, folder, engine_ports=engine_ports, workers=2) as two,
        step("two processes"),
    ):
        workers = two.process.pids[-2:]
        for pid, core in zip(workers, CORES[:2], strict=False):
            pin(pid, core)
        share = 1.0 if len(CORES) >= 4 else SHARE
        with limited([one.process.pids[-1], *workers], share=share) as is_limited:
            rounds = [(_ask(load, one, seconds), _ask(load, two, seconds)) for _ in range(ROUNDS)]
    single, double = (_median(readings) for readings in zip(*rounds, strict=True))
    costs = [
        statistics.median(reading.cpu_per_request for reading in readings) for readings in zip(*rounds, strict=True)
    ]
    say(f"    one {single:,.0f}, two {double:,.0f} requests/s; {costs[0]:.1f} and {costs[1]:.1f} µs of CPU each")
    is_raced = is_limited or len(CORES) >= 4
    ratio = double / single if is_raced else 2 * costs[0] / costs[1]
    how = f"requests/s at {share:.0%} of a core each" if is_raced else "requests per second of CPU"
    return [
        Claim("one process: requests/s", single, None, "", ROUNDS),
        Claim("two processes: requests/s", double, None, "", ROUNDS),
        Claim("one process: CPU per request", costs[0], None, "µs", ROUNDS),
        Claim("two processes: CPU per request", costs[1], None, "µs", ROUNDS),
        Claim(f"two processes / one: {how}", ratio, LEAST, "x", ROUNDS, at_least=True),
    ]


def _ask(load: str, gateway: Contender, seconds: float) -> Reading:
    options = {"connections": CONNECTIONS, "warm": 0.5, "ramp": 0.2, "seconds": seconds}
    return ask(load, gateway, options, cores=CORES[2:] if len(CORES) >= 4 else CORES)


def _median(readings: Sequence[Reading]) -> float:
    return statistics.median(reading.requests for reading in readings)
