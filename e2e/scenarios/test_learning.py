"""Replicas by what one was seen to carry within the SLO, with no target to say how much that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from e2e.lab import sim_deployment
from e2e.scenarios.clients import load

if TYPE_CHECKING:
    from e2e.lab import Lab

SLOW = {"prefill_tps": 30, "decode_tps": 40}
"""Prompts are read one after another, each for half a second or so."""


async def test_scales_up_by_what_a_replica_was_seen_to_carry(lab: Lab) -> None:
    await lab.apply(
        sim_deployment(
            lab.installation,
            "learnt",
            sim=SLOW,
            # So many sequences at a time would make a target that ten clients are far below.
            engine={"maxNumSeqs": 64},
            slo={"timeToFirstToken": "1s"},
            scaling={"minReplicas": 1, "maxReplicas": 2},
        )
    )
    await lab.until_replicas("learnt", 1)

    async def learnt() -> dict[str, Any] | None:
        decisions = (await lab.llm("learnt"))["status"].get("decisions", [])
        return next((one for one in decisions if one["reason"] == "RateAboveCapacity"), None)

    async with load(lab, "learnt", clients=10, tokens=4) as outcome:
        decision = await lab.until("a decision by what was learnt", learnt, within=400)
        await lab.until_replicas("learnt", 2)

    assert (decision["fromReplicas"], decision["toReplicas"]) == (1, 2)
    assert "requests/s per replica" in decision["message"]
    assert outcome.failures == []
    assert outcome.broken == []
