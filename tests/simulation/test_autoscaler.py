"""The autoscaler in a cluster where whatever can go wrong does: laws that hold all the same."""

from __future__ import annotations

from tests.simulation.cluster import KEY, Cluster, Load
from tests.simulation.virtual import run


def test_x() -> None:
    async def main() -> None:
        c = Cluster(1)
        await c.serve([Load(10, 0), Load(60, 9), Load(60, 3), Load(90, 0)])
        print(c.api.scales, c.violations, c.writes)
        assert KEY
        assert 0

    run(main, 1)
