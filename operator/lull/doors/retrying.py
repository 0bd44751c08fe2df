"""How long to wait before another try."""

from __future__ import annotations

import random


def backoff(failures: int, *, first: float = 0.2, most: float = 10.0) -> float:
    """Seconds to wait after so many failures in a row: doubling, capped, spread by half."""
    capped: float = min(most, first * 2.0 ** min(failures - 1, 16))
    return capped * random.uniform(0.5, 1.0)  # noqa: S311  spreads retries only
