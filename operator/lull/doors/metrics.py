"""Every series that Lull exposes, in one place. Labels are closed sets, or the names of LLMDeployments.

`docs/metrics.md` is generated from here.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

# Of the operator's work queues; the label `queue` is "controller", "autoscaler" or "adapters".

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
DEMAND: Final = Gauge(
    "lull_demand_requests",
    "Requests over all gateways as the autoscaler knows them, by state: held or in_flight.",
    ["namespace", "name", "state"],
)
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


def render() -> bytes:
    """The exposition text of this process."""
    return generate_latest(REGISTRY)


def forget(namespace: str, name: str) -> None:
    """Drop the series of an LLMDeployment that is gone."""
    for series in (DESIRED_REPLICAS, READY_REPLICAS, FORECAST_REPLICAS):
        series.remove_by_labels({"namespace": namespace, "name": name})
    DEMAND.remove_by_labels({"namespace": namespace, "name": name})
