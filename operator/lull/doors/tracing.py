"""Traces for OpenTelemetry: a span for each request, and one for each try within it.

An extra, `lull-operator[otel]`: only who turns it on imports this. Spans are sent in batches by a thread of the SDK's;
its settings are the usual `OTEL_*` variables, samplers included. What has no attribute here is not told: no word of
what was asked or answered, and no key but its id.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lull import __version__
from lull.doors import clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Tracer as OtelTracer

    Attributes = Mapping[str, str | bool | int | float]
    Headers = list[tuple[bytes, bytes]]

LAST_WORD_SECONDS: Final = 2.0
"""For the last batch when the process ends."""

_CONTEXT: Final = (b"traceparent", b"tracestate")
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Tracer:
    """Begins traces, or goes on with those that clients began."""

    def __init__(self, tracer: OtelTracer) -> None:
        self._tracer = tracer

    def begin(self, name: str, headers: Headers, *, at: float) -> Trace:
        """A request that arrived; all times are `clock.monotonic`'s."""
        return Trace(self._tracer, name, headers, at=at)


class Trace:
    """The spans of one request."""

    __slots__ = ("_epoch", "_span", "_tracer", "_try", "held_seconds")

    def __init__(self, tracer: OtelTracer, name: str, headers: Headers, *, at: float) -> None:
        self._tracer = tracer
        self._epoch = clock.wall() - clock.monotonic()
        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers if key in _CONTEXT}
        parent = _PROPAGATOR.extract(carrier)
        self._span = tracer.start_span(name, parent, SpanKind.SERVER, start_time=self._nanoseconds(at))
        self._try: Span | None = None
        self.held_seconds = 0.0
        """How much of the time for which it was held has been told."""

    @property
    def is_sampled(self) -> bool:
        """Somebody will see it; what is told of it otherwise is lost."""
        return self._span.is_recording()

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    def tell(self, event: str, *, at: float) -> None:
        self._span.add_event(event, timestamp=self._nanoseconds(at))

    def begin_try(self, name: str, headers: Headers, *, at: float) -> Headers:
        """An engine is asked; the headers that it gets, by which its own spans become children of this one."""
        self._try = self._tracer.start_span(
            name, set_span_in_context(self._span), SpanKind.CLIENT, start_time=self._nanoseconds(at)
        )
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(self._try))
        kept = [header for header in headers if header[0] not in _CONTEXT]
        return kept + [(key.encode(), value.encode("latin-1")) for key, value in carrier.items()]

    def end_try(self, attributes: Attributes, *, at: float, error: str = "") -> None:
        span, self._try = self._try, None
        if span is not None:
            self._end(span, attributes, at=at, error=error)

    def end(self, attributes: Attributes, *, at: float, error: str = "") -> None:
        self._end(self._span, attributes, at=at, error=error)

    def _end(self, span: Span, attributes: Attributes, *, at: float, error: str) -> None:
        span.set_attributes(attributes)
        if error:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR))
        span.end(self._nanoseconds(at))

    def _nanoseconds(self, at: float) -> int:
        return int((at + self._epoch) * 1e9)


@contextmanager
def exporting(instance: str) -> Iterator[Tracer]:
    """Send spans to where `OTEL_EXPORTER_OTLP_ENDPOINT` says, while the block runs."""
    ours = Resource({SERVICE_NAME: "lull-gateway", SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: instance})
    # What the environment says of the service counts more.
    provider = TracerProvider(
        resource=Resource.create().merge(ours).merge(OTELResourceDetector().detect()), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Tracer(provider.get_tracer("lull.gateway", __version__))
    finally:
        # A collector that does not answer must not hold up the end.
        ending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(LAST_WORD_SECONDS)
