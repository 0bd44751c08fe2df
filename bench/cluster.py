"""How long `make cluster` takes with everything built."""

from __future__ import annotations

import time

from bench.claims import Claim
from e2e.cluster import find_cluster


def measure() -> list[Claim]:
    """Take the cluster down, bring it up, down and up again; the slower start counts."""
    took = []
    for _ in range(2):
        cluster = find_cluster()
        cluster.down()
        began = time.monotonic()
        cluster.up()
        took.append(time.monotonic() - began)
    return [Claim("make cluster, everything built", max(took), 30, "s", len(took))]
