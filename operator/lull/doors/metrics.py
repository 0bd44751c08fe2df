"""Every series that Lull exposes, in one place. Labels are closed sets, or the names of LLMDeployments.

`docs/metrics.md` is generated from here.
"""

from __future__ import annotations

import contextlib
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_OF_ONE: Final = ("namespace", "name")

# Of the operator's work queues; the label `queue` is "controller", "autoscaler", "adapters" or "sleepers".

WORKQUEUE_DEPTH: Final = Gauge("lull_workqueue_depth", "Keys that wait for a worker.", ["queue"])
WORKQUEUE_SECONDS: Final = Histogram(
    "lull_workqueue_seconds",
    "Time that a key waited for a worker.",
    ["queue"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60),
)
WORK_SECONDS: Final = Histogram(
    "lull_reconcile_seconds",
    "Time that one reconcile, or one scaling decision with its write, took.",
    ["queue"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60),
)
WORK: Final = Counter(
    "lull_reconcile_total", "Reconciles and scaling decisions by result: ok, transient or bug.", ["queue", "result"]
)
APPLIED: Final = Counter("lull_applied_total", "Children written, by kind.", ["kind"])
DELETED: Final = Counter("lull_deleted_total", "Children deleted, by kind.", ["kind"])
STATUS_WRITTEN: Final = Counter("lull_status_written_total", "Writes of the status of LLMDeployments.")
EVENTS_POSTED: Final = Counter(
    "lull_events_posted_total", "Kubernetes Events by result: ok, dropped or failed.", ["result"]
)
LEADING: Final = Gauge("lull_leading", "Whether this process holds the Lease.")

# Of the operator's scaling.

DESIRED_REPLICAS: Final = Gauge(
    "lull_desired_replicas", "Replicas that the last decision asked for.", ["namespace", "name"]
)
READY_REPLICAS: Final = Gauge("lull_ready_replicas", "Replicas that are ready.", ["namespace", "name"])
ASLEEP_REPLICAS: Final = Gauge(
    "lull_asleep_replicas", "Ready replicas that sleep, and hold their accelerators.", ["namespace", "name"]
)
SLEEP_STEPS: Final = Counter(
    "lull_sleep_steps_total",
    "Steps with engines into and out of sleep, by step (spare, fallasleep, wakeup, return, and replace, of the pod of one "
    "that would not wake up) and result (ok, refused, unreachable).",
    ["step", "result"],
)
WAKE_SECONDS: Final = Histogram(
    "lull_wake_seconds",
    "Time that an engine took to wake up, by the level at which it slept.",
    ["level"],
    buckets=(0.1, 0.3, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600),
)
DEMAND: Final = Gauge(
    "lull_demand_requests",
    "Requests as the autoscaler knows them, by state: held or in_flight at gateways, waiting where none had them.",
    ["namespace", "name", "state"],
)
DEMAND_COMPLETE: Final = Gauge(
    "lull_demand_complete", "Whether every gateway was heard of late; where not, no replica is taken away.", _OF_ONE
)
SCALING_REPLICAS: Final = Gauge(
    "lull_scaling_replicas",
    "Replicas in the last decision: asked, ready and loading before it, and stuck, those of the loading ones that have "
    "been for too long; wanted by demand within the bounds; least and most that may be; scheduled by a schedule that "
    "lasts, and budget, the most that is paid for.",
    ["namespace", "name", "of"],
)
SCALING_REASON: Final = Gauge(
    "lull_scaling_reason",
    "1 for the reason of the last decision, whether or not it changed anything.",
    ["namespace", "name", "reason"],
)
ARRIVALS: Final = Gauge("lull_arrivals_per_second", "Requests that are expected, from what arrived of late.", _OF_ONE)
CAPACITY: Final = Gauge(
    "lull_replica_capacity_per_second", "Requests that a replica was learnt to carry within spec.slo.", _OF_ONE
)
BUSYNESS: Final = Gauge(
    "lull_replica_busyness_ratio", "How busy replicas are; 1 is as busy as spec.slo allows.", _OF_ONE
)
MARGIN: Final = Gauge(
    "lull_replica_margin_ratio", "What is kept ready on top of what arrives, as a share of it.", _OF_ONE
)
COST_PER_HOUR: Final = Gauge(
    "lull_cost_per_hour", "What the replicas that there are cost, in the currency of the operator's prices.", _OF_ONE
)
COST_THIS_MONTH: Final = Gauge("lull_cost_this_month", "What they have cost in this month (UTC).", _OF_ONE)
DECISIONS: Final = Counter("lull_decisions_total", "Decisions that changed a replica count, by reason.", ["reason"])
ADAPTER_MOVES: Final = Counter(
    "lull_adapter_moves_total",
    "Steps with adapters on replicas, by step (fetch, load, unload, forget) and result (ok, refused, unreachable).",
    ["move", "result"],
)
FORECAST_REPLICAS: Final = Gauge(
    "lull_forecast_replicas",
    "Replicas that the forecast asks for; no sample where there is none to go by.",
    ["namespace", "name"],
)
HISTORY_READS: Final = Counter(
    "lull_history_reads_total", "Readings of Prometheus' history for forecasts by result: ok or failed.", ["result"]
)
SIGNAL_AGE: Final = Gauge("lull_signal_age_seconds", "Age of the oldest gateway's last answer.")
GATEWAYS: Final = Gauge("lull_gateways", "Gateways that are polled for demand.")
POLLS: Final = Counter("lull_demand_polls_total", "Polls of gateways by result: ok or failed.", ["result"])
ENGINE_READS: Final = Counter(
    "lull_engine_reads_total",
    "Looks at the metrics of engines by result: ok, unreachable or unreadable.",
    ["result"],
)


def render() -> bytes:
    """The exposition text of this process."""
    return generate_latest(REGISTRY)


def forget(namespace: str, name: str) -> None:
    """Drop the series of an LLMDeployment that is gone."""
    for series in _BY_NAME:
        series.remove_by_labels({"namespace": namespace, "name": name})


def put(series: Gauge, value: float | None, *labels: str) -> None:
    """Set a series, or take it away where there is nothing to say."""
    if value is None:
        with contextlib.suppress(KeyError):
            series.remove(*labels)
    else:
        series.labels(*labels).set(value)


def show(series: Gauge, word: str, namespace: str, name: str) -> None:
    """Let one word of a closed set be true of an LLMDeployment, and no other."""
    series.remove_by_labels({"namespace": namespace, "name": name})
    series.labels(namespace, name, word).set(1)


_BY_NAME: Final = (
    DESIRED_REPLICAS,
    READY_REPLICAS,
    ASLEEP_REPLICAS,
    FORECAST_REPLICAS,
    DEMAND,
    DEMAND_COMPLETE,
    SCALING_REPLICAS,
    SCALING_REASON,
    ARRIVALS,
    CAPACITY,
    BUSYNESS,
    MARGIN,
    COST_PER_HOUR,
    COST_THIS_MONTH,
)
