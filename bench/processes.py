"""How many processes benchmarks of independent cases take. Their results do not depend on it."""

from __future__ import annotations

import os
from typing import Final

VARIABLE: Final = "BENCH_PROCESSES"
"""Where the option is kept for whoever measures."""


def count() -> int:
    """As many as was asked for; else one for each core that this process may use."""
    return int(os.environ.get(VARIABLE) or len(os.sched_getaffinity(0)))
