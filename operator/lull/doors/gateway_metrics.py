"""The gateway's series for Prometheus. Labels are closed sets, or LLMDeployments that exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lull.api.llmdeployment import Key
    from lull.core.admission import Demand

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_OF_DEPLOYMENT: Final = ("namespace", "name")
_WAITS: Final = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_LATENCIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class GatewayMetrics:
    """Counters that the pipeline keeps, and gauges that are read off admission at each scrape."""

    def __init__(self, demand: Callable[[], Mapping[Key, Demand]]) -> None:
        self.registry = CollectorRegistry()
        GCCollector(self.registry)
        PlatformCollector(self.registry)
        ProcessCollector(registry=self.registry)
        self.registry.register(_DemandCollector(demand))
        self.requests = Counter(
            "lull_gateway_requests",
            "Requests by the status they ended with; 499: the client left first. No name: it concerned no model that exists.",
            (*_OF_DEPLOYMENT, "code"),
            registry=self.registry,
        )
        self.adapter_requests = Counter(
            "lull_gateway_adapter_requests",
            "Requests for an adapter, by the status they ended with; they count in lull_gateway_requests too.",
            (*_OF_DEPLOYMENT, "adapter", "code"),
            registry=self.registry,
        )
        self.held_seconds = Histogram(
            "lull_gateway_hold_seconds",
            "Time that a request which had to wait was held.",
            _OF_DEPLOYMENT,
            buckets=_WAITS,
            registry=self.registry,
        )
        self.first_byte_seconds = Histogram(
            "lull_gateway_first_byte_seconds",
            "Time from a request's arrival to the first byte of its answer, held time included.",
            _OF_DEPLOYMENT,
            buckets=(*_LATENCIES, 600, 1800),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "lull_gateway_request_seconds",
            "Time from a request's arrival to the end of its answer.",
            _OF_DEPLOYMENT,
            buckets=(*_LATENCIES, 600, 1800),
            registry=self.registry,
        )
        self.retries = Counter(
            "lull_gateway_retries",
            "Tries that failed before the first byte and were followed by another, by what failed.",
            (*_OF_DEPLOYMENT, "reason"),
            registry=self.registry,
        )
        self.aborted = Counter(
            "lull_gateway_aborted",
            "Requests that ended early, by stage: held, waiting for the first byte, or streaming; and by who ended it.",
            (*_OF_DEPLOYMENT, "stage", "by"),
            registry=self.registry,
        )

    def forget(self, key: Key) -> None:
        """Drop the series of an LLMDeployment that is gone."""
        labels = {"namespace": key.namespace, "name": key.name}
        for series in (
            self.requests,
            self.adapter_requests,
            self.held_seconds,
            self.first_byte_seconds,
            self.seconds,
            self.retries,
            self.aborted,
        ):
            series.remove_by_labels(labels)

    def forget_adapter(self, key: Key, adapter: str) -> None:
        """Drop the series of an adapter that is no longer listed."""
        labels = {"namespace": key.namespace, "name": key.name, "adapter": adapter}
        self.adapter_requests.remove_by_labels(labels)

    def render(self) -> bytes:
        """The exposition text of this gateway."""
        return generate_latest(self.registry)


class _DemandCollector(Collector):
    def __init__(self, demand: Callable[[], Mapping[Key, Demand]]) -> None:
        self._demand = demand

    def collect(self) -> Iterable[GaugeMetricFamily]:
        held = GaugeMetricFamily("lull_gateway_held", "Requests that wait for capacity.", labels=_OF_DEPLOYMENT)
        held_bytes = GaugeMetricFamily("lull_gateway_held_bytes", "Bytes of their bodies.", labels=_OF_DEPLOYMENT)
        in_flight = GaugeMetricFamily("lull_gateway_in_flight", "Requests with an engine.", labels=_OF_DEPLOYMENT)
        for key, demand in self._demand().items():
            labels = (key.namespace, key.name)
            held.add_metric(labels, demand.held)
            held_bytes.add_metric(labels, demand.held_bytes)
            in_flight.add_metric(labels, demand.in_flight)
        return held, held_bytes, in_flight
