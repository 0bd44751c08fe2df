"""Run benchmarks by name, all of them without one."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from datetime import UTC, datetime

from bench import processes
from bench.claims import Claim, as_json, print_table
from e2e.progress import say

NAMES = (
    "wake",
    "burst",
    "levers",
    "cluster",
    "reconcile",
    "routing",
    "gateway",
    "calibration",
    "autoscaling",
    "forecast",
)
BUSY = 0.5
"""Load for each core from which on the machine is not quiet."""


def main() -> int:
    """Return 0 where every claim was kept."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--full",
        action="store_true",
        help="also what takes long: reconcile with 5,000 objects, gateway with more rounds, calibration with every model and GPU left out",
    )
    parser.add_argument(
        "--quick", action="store_true", help="less of what takes long by default: autoscaling, forecast"
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="for what is simulated: autoscaling, forecast; default: one for each core",
    )
    arguments = parser.parse_args()
    if arguments.processes is not None:
        if arguments.processes < 1:
            parser.error(f"--processes must be 1 or more, not {arguments.processes}")
        os.environ[processes.VARIABLE] = str(arguments.processes)
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    load = os.getloadavg()[0]
    if load > BUSY * (os.cpu_count() or 1):
        say(
            f"The machine is busy (load {load:.1f} on {os.cpu_count()} cores): figures that are timed tell of that, too."
        )
    claims = [claim for name in arguments.names or NAMES for claim in _measure(name, arguments)]
    if arguments.json:
        print(json.dumps(as_json(claims, at=datetime.now(UTC).isoformat(timespec="seconds"), load=load), indent=1))
    else:
        print_table(claims)
    return 0 if all(claim.kept for claim in claims) else 1


def _measure(name: str, arguments: argparse.Namespace) -> list[Claim]:
    benchmark = importlib.import_module(f"bench.{name}")
    extent = "measure_full" if arguments.full else "measure_quick" if arguments.quick else "measure"
    measure = getattr(benchmark, extent, benchmark.measure)
    claims: list[Claim] = measure()
    return claims


if __name__ == "__main__":
    sys.exit(main())
