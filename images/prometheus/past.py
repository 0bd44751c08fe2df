"""What gateways counted in the last days of one LLMDeployment that was busy in every other hour, as OpenMetrics.

The time at which it is run is the middle of a busy hour, so that the next half an hour is one that was busy before.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DAYS = 5
SCRAPE = 60
HOUR = 3600
RATE = 1.0
"""Requests a second in a busy hour."""
SECONDS = 20.0
"""That a request spends with an engine."""


def is_busy(at: int, end: int) -> bool:
    """Whether requests came then; it is the same at the same time of each day."""
    return (at - end + HOUR // 2) % (2 * HOUR) < HOUR


def expose(namespace: str, name: str, end: int) -> Iterator[str]:
    """The lines of all families, one family after the other."""
    labels = f'namespace="{namespace}",name="{name}"'
    counted: list[tuple[int, int]] = []
    total = 0
    for at in range(end - DAYS * 24 * HOUR, end + 1, SCRAPE):
        total += round(RATE * SCRAPE) if is_busy(at, end) else 0
        counted.append((at, total))
    yield "# TYPE lull_gateway_requests counter"
    for at, value in counted:
        yield f'lull_gateway_requests_total{{{labels},code="200"}} {value} {at}'
    for family, seconds in (("request_seconds", SECONDS), ("hold_seconds", 0.0)):
        yield f"# TYPE lull_gateway_{family} histogram"
        for at, value in counted:
            yield f'lull_gateway_{family}_bucket{{{labels},le="+Inf"}} {value} {at}'
            yield f"lull_gateway_{family}_sum{{{labels}}} {value * seconds} {at}"
            yield f"lull_gateway_{family}_count{{{labels}}} {value} {at}"
    yield "# TYPE lull_gateway_limits_shared gauge"
    for at, _ in counted:
        yield f'lull_gateway_limits_shared{{pod="gateway-0"}} 1 {at}'
    yield "# EOF"


if __name__ == "__main__":
    now = int(time.time()) // SCRAPE * SCRAPE
    for line in expose(sys.argv[1], sys.argv[2], now):
        print(line)
