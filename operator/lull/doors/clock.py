"""The one clock. Everything that decides takes `now` as an argument; only shells read it here."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Final

# Not wrapped in functions of our own: the data path reads the clock a dozen times for each request.
monotonic: Final = time.monotonic
"""Seconds since an arbitrary start; never steps back."""
wall: Final = time.time
"""Seconds since the Unix epoch; may step when the machine's clock is set."""


def render_time(at: float) -> str:
    """RFC 3339 with microseconds, as Kubernetes' MicroTime."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def http_date() -> bytes:
    """The wall clock as HTTP's Date header has it (RFC 9110, 5.6.7)."""
    return formatdate(wall(), usegmt=True).encode()


def utc() -> datetime:
    """The time of day, for what people read."""
    return datetime.now(UTC)
