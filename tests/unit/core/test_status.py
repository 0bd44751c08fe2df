from __future__ import annotations

from typing import Any

from lull.api.llmdeployment import Manifest
from lull.api.reasons import Reason
from lull.core.observed import Observed
from lull.core.status import REMEDIES, ScalingView, summarize, summarize_unreadable
from tests.manifests import manifest, stored

WELL = {
    Reason.VALID,
    Reason.SERVING,
    Reason.SCALED_TO_ZERO,
    Reason.STARTING,
    Reason.SCALING_DOWN,
    Reason.ROLLING_OUT,
    Reason.SETTLED,
    Reason.DELETING,
    Reason.ADAPTERS_LOADED,
    Reason.ADAPTERS_LOADING,
    Reason.SPOT_RUNNING,
    Reason.SCALING,
    Reason.MANUAL,
    Reason.SHADOW,
    Reason.ASLEEP,
}
ASLEEP = Observed(workloads=({"kind": "Deployment", "metadata": {"name": "w"}, "spec": {"replicas": 0}},))


def _summarize(observed: Observed, *, status: Manifest | None = None, now: float = 100.0, desired: int = 0) -> Manifest:
    return summarize(
        stored(manifest(), status=status),
        observed,
        scaling=ScalingView(desired, Reason.SCALING, "", ()),
        problem=None,
        conflict=None,
        now=now,
    )


def _ready_pod(*, created: str, ready: str, **container: Any) -> Manifest:
    return {
        "metadata": {"name": "p", "creationTimestamp": created},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": created},
                {"type": "Ready", "status": "True", "lastTransitionTime": ready},
            ],
            "containerStatuses": [
                {"name": "engine", "ready": True, "state": {"running": {"startedAt": created}}, **container}
            ],
        },
    }


def _awake(pod: Manifest) -> Observed:
    return Observed(workloads=ASLEEP.workloads, pods=(pod,))


def test_every_reason_that_needs_doing_says_what_to_do() -> None:
    assert set(REMEDIES) == set(Reason) - WELL


def test_a_second_look_at_the_same_changes_nothing() -> None:
    first = _summarize(ASLEEP, now=100.0)

    assert _summarize(ASLEEP, status=first, now=900.0) == first


def test_dates_a_condition_by_its_last_change_of_status() -> None:
    asleep = _summarize(ASLEEP, now=100.0)
    starting = _summarize(ASLEEP, status=asleep, now=200.0, desired=1)

    dates = {condition["type"]: condition["lastTransitionTime"] for condition in starting["conditions"]}

    assert dates["Ready"] == "1970-01-01T00:03:20Z"
    assert dates["SpecValid"] == "1970-01-01T00:01:40Z"


def test_measures_a_cold_start_once_the_replica_is_ready() -> None:
    pod = _ready_pod(created="2026-01-01T10:00:00Z", ready="2026-01-01T10:00:30Z")

    status = _summarize(_awake(pod), desired=1)

    assert status["coldStart"]["total"] == "30s"


def test_keeps_the_measured_cold_start_while_asleep_and_while_more_replicas_come() -> None:
    first = _summarize(_awake(_ready_pod(created="2026-01-01T10:00:00Z", ready="2026-01-01T10:00:30Z")), desired=1)
    later = _ready_pod(created="2026-01-01T11:00:00Z", ready="2026-01-01T11:05:00Z")

    assert _summarize(ASLEEP, status=first)["coldStart"] == first["coldStart"]
    assert _summarize(_awake(later), status=first, desired=1)["coldStart"] == first["coldStart"]


def test_measures_the_next_wake_after_a_sleep() -> None:
    first = _summarize(_awake(_ready_pod(created="2026-01-01T10:00:00Z", ready="2026-01-01T10:00:30Z")), desired=1)
    asleep = _summarize(ASLEEP, status=first)
    later = _ready_pod(created="2026-01-01T11:00:00Z", ready="2026-01-01T11:00:20Z")

    assert _summarize(_awake(later), status=asleep, desired=1)["coldStart"]["total"] == "20s"


def test_a_replica_that_was_unready_for_a_moment_is_no_cold_start() -> None:
    first = _summarize(_awake(_ready_pod(created="2026-01-01T10:00:00Z", ready="2026-01-01T10:00:30Z")), desired=1)
    unready = {**first, "readyReplicas": 0}
    back = _ready_pod(created="2026-01-01T10:00:00Z", ready="2026-01-01T12:00:00Z")

    assert _summarize(_awake(back), status=unready, desired=1)["coldStart"] == first["coldStart"]


def test_a_restarted_engine_is_no_cold_start() -> None:
    pod = _ready_pod(created="2026-01-01T10:00:00Z", ready="2026-01-01T10:00:30Z", restartCount=1)

    assert "coldStart" not in _summarize(_awake(pod), desired=1)


def test_an_object_that_cannot_be_parsed_still_gets_its_conditions() -> None:
    unreadable = {**manifest(), "metadata": {"name": "llama-8b", "generation": 4}, "spec": {}}

    first = summarize_unreadable(unreadable, "spec.model: Field required", now=100.0)
    second = summarize_unreadable({**unreadable, "status": first}, "spec.model: Field required", now=900.0)

    assert second == first
    assert {condition["type"]: condition["status"] for condition in first["conditions"]} == {
        "Ready": "False",
        "Reconciling": "False",
        "Stalled": "True",
        "SpecValid": "False",
    }
    assert all("spec.model: Field required." in condition["message"] for condition in first["conditions"])
