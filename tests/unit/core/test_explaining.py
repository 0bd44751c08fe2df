"""What `lull why` says, by example."""

from __future__ import annotations

from typing import Any

import pytest

from lull.api.llmdeployment import Manifest
from lull.api.timestamps import parse_timestamp
from lull.cli.cluster import to_json
from lull.cli.why import render
from lull.core.explaining import explain
from tests.manifests import manifest

NOW = parse_timestamp("2026-11-21T14:05:11Z")
SCALING = {
    "type": "ScalingActive",
    "status": "True",
    "reason": "Scaling",
    "message": "Lull keeps between 0 and 8 replicas.",
    "lastTransitionTime": "2026-11-21T10:00:00Z",
}
UP = {
    "at": "2026-11-21T14:02:11.123456Z",
    "fromReplicas": 3,
    "toReplicas": 5,
    "reason": "QueueAboveTarget",
    "message": "3 → 5: 41 waiting and 96 in flight over a target of 4 and 32 per replica; 3 ready, 2 loading, "
    "ready in about 35s",
}
AWOKEN = {**UP, "at": "2026-11-20T09:00:00Z", "fromReplicas": 0, "toReplicas": 3, "message": "0 → 3: 99 waiting"}
COST = {
    "currency": "USD",
    "perHour": "4.00",
    "perReplica": "2.00",
    "price": "1 x NVIDIA-L4 at 2 (a list of 2026-07-20)",
    "month": "2026-11",
    "thisMonth": "90.00",
    "since": "2026-11-01T00:00:00Z",
    "at": "2026-11-21T14:05:00Z",
}
LEARNT = {
    "at": "2026-11-21T12:00:00Z",
    "basis": "a",
    "capacity": "2.5",
    "margin": "0.31",
    "peak": "9",
    "evidence": "5m",
}


def model(status: Manifest | None = None, **spec: Any) -> Manifest:
    given = {"desiredReplicas": 5, "readyReplicas": 3, "conditions": [SCALING], "decisions": [UP, AWOKEN]}
    return {**manifest(name="m", **spec), "status": {**given, **(status or {})}}


def text(given: Manifest, last: int = 10) -> str:
    return render(explain(given, NOW), NOW, last=last).plain


def levers(given: Manifest) -> tuple[str, ...]:
    return explain(given, NOW).levers


def test_tells_the_last_decisions_newest_first_each_with_its_time() -> None:
    lines = text(model()).splitlines()

    assert lines[:3] == [
        "default/m  3 of 5 replicas ready",
        (
            "3 → 5 at 14:02:11: 41 waiting and 96 in flight over a target of 4 and 32 per replica; 3 ready, 2 loading, "
            "ready in about 35s  (QueueAboveTarget, 3m ago)"
        ),
        "0 → 3 at 2026-11-20 09:00:00: 99 waiting  (QueueAboveTarget, 29h5m11s ago)",
    ]
    assert "0 → 3" not in text(model(), last=1)


def test_tells_what_holds_it_now() -> None:
    cold = {"at": "2026-11-21T13:00:00Z", "scheduled": "1s", "image": "4s", "weights": "0s", "warmUp": "65s"}
    said = text(model({"cost": COST, "coldStart": {**cold, "total": "70s"}}))

    assert "  Lull keeps between 0 and 8 replicas." in said
    assert "  The target is 4 waiting and 32 in flight per replica, until it is known what a replica carries." in said
    assert "load has allowed it for 1m10s, the last one 10m after the last request." in said
    assert "  A replica takes about 70s to be ready, as the last cold start did." in said
    assert "It costs 4.00 USD an hour and has cost 90.00 in 2026-11: 1 x NVIDIA-L4 at 2 (a list of 2026-07-20)." in said


def test_tells_what_was_learnt_unless_the_spec_says_the_target() -> None:
    learnt = {"learnt": LEARNT}

    assert "A replica carries 2.5 requests/s within spec.slo, learnt from 5m under load; the margin is 0.31." in text(
        model(learnt)
    )
    assert "The target is 4 waiting and 7 in flight per replica." in text(
        model(learnt, scaling={"target": {"inFlight": 7}})
    )


@pytest.mark.parametrize(
    ("status", "spec", "expected"),
    [
        ({"desiredReplicas": 0}, {}, "A request, or `lull wake m`, starts the first replica."),
        ({"desiredReplicas": 2}, {}, "More run, up to 8, when more is asked for than replicas carry."),
        ({"desiredReplicas": 2}, {}, "Fewer run when less is asked for, and none after 10m without a request."),
        ({"desiredReplicas": 2}, {"scaling": {"minReplicas": 1}}, "Fewer run, down to 1, when less is asked for."),
        (
            {"desiredReplicas": 1},
            {"scaling": {"minReplicas": 1}},
            "Fewer than 1 run where scaling.minReplicas is lower.",
        ),
        (
            {"desiredReplicas": 5},
            {"scaling": {"maxReplicas": 5}},
            "More than 5 run where scaling.maxReplicas allows it.",
        ),
        (
            {"desiredReplicas": 5},
            {"placement": {"pools": [{"name": "a", "maxReplicas": 5}]}},
            "More than 5 run where maxReplicas of the pools allows it.",
        ),
        (
            {"desiredReplicas": 2, "cost": COST},
            {"scaling": {"budget": {"perHour": "5"}}},
            "More than 2 run where scaling.budget allows it.",
        ),
        (
            {"desiredReplicas": 2},
            {"scaling": {"schedules": [{"cron": "* * * * *", "duration": "5m", "minReplicas": 2}]}},
            'Fewer than 2 run when the schedule "* * * * *" (UTC) is over.',
        ),
        ({}, {"scaling": {"mode": "Shadow"}}, "Whoever sets the replicas now; Lull does once scaling.mode is Active."),
        (
            {},
            {"replicas": 5},
            "kubectl scale llm/m --replicas=N, or Lull itself once spec.replicas is removed.",
        ),
    ],
)
def test_tells_what_would_change_it(status: Manifest, spec: dict[str, Any], expected: str) -> None:
    assert expected in levers(model(status, **spec))


def test_says_of_what_nobody_has_looked_at_that_nobody_has() -> None:
    said = text({**manifest(name="m"), "status": {}})

    assert "No decision has changed the number of replicas yet." in said
    assert "No operator has looked at it yet: see `lull doctor`." in said


def test_says_what_is_wrong_with_what_cannot_be_read() -> None:
    assert "spec.model" in text({**manifest(name="m"), "spec": {"model": {}}})


def test_speaks_json() -> None:
    found = to_json(explain(model(), NOW))

    assert (found["desiredReplicas"], found["decisions"][0]["toReplicas"]) == (5, 5)
