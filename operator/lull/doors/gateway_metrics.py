"""The gateway's series for Prometheus. Labels are closed sets, or LLMDeployments, adapters and keys that exist.

Samples are made of what `gateway_counts` has when somebody scrapes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import accumulate, chain, groupby
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from lull.doors.gateway_counts import FIRST_TOKENS, LATENCIES, OUTPUT_TOKENS, WAITS, GatewayCounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from lull.api.llmdeployment import Key
    from lull.core.admission import Demand
    from lull.doors.gateway_counts import DeploymentCounts

_Count = Callable[["DeploymentCounts"], Iterable[tuple[Any, ...]]]
"""Reads values of further labels, and the number."""
_OF_DEPLOYMENT: Final = ("namespace", "name")
_SAMPLES_AT_ONCE: Final = 64
"""Lines made before requests have their turn: half a millisecond of work."""
_HEAD: Final = re.compile(rb"\A(?:#.*\n)+")
_END: Final = b"# EOF\n"
"""Of OpenMetrics only."""


class GatewayMetrics:
    """What was counted, and gauges that are read off admission at each scrape."""

    def __init__(
        self,
        demand: Callable[[], Mapping[Key, Demand]],
        *,
        lost_lines: Callable[[], int] = lambda: 0,
        shares_limits: Callable[[], bool] = lambda: False,
    ) -> None:
        """`lost_lines`: of the log, because nobody read standard output. `shares_limits`: with other gateways, now."""
        self._demand = demand
        self._shares_limits = shares_limits
        self._lost_lines = lost_lines
        self.counts = GatewayCounts()
        self.registry = CollectorRegistry()
        self.registry.register(_Collector(self._cut))
        self._process = CollectorRegistry()
        GCCollector(self._process)
        PlatformCollector(self._process)
        ProcessCollector(registry=self._process)

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition text in the format that is asked for, and its content type.

        It is made in small parts, between which requests have their turn: a thousand LLMDeployments come to 10^5 lines.
        """
        encode, content_type = choose_encoder(accept)
        parts: list[bytes] = []
        name = ""
        for family in chain(self._process.collect(), self._cut()):
            text = encode(_Collector(lambda family=family: (family,))).removesuffix(_END)  # type: ignore[misc]
            parts.append(_HEAD.sub(b"", text) if family.name == name else text)
            name = family.name
            await asyncio.sleep(0)
        return b"".join(parts) + encode(_Collector(tuple)), content_type

    def _cut(self) -> Iterator[Metric]:
        """All families, those with many samples in several pieces under the same name.

        Counting goes on between two pieces, so nothing that may grow is iterated across them.
        """
        deployments = tuple(self.counts.deployments.items())
        demands = tuple(self._demand().items())
        for name, text, attribute in _GAUGES:
            rows = (((key.namespace, key.name), getattr(demand, attribute)) for key, demand in demands)
            yield from _pieces(partial(GaugeMetricFamily, name, text, labels=_OF_DEPLOYMENT), rows)
        for name, text, labels, count in _COUNTERS:
            rows = (
                ((key.namespace, key.name, *values), value)
                for key, counts in deployments
                for *values, value in tuple(count(counts))
            )
            yield from _pieces(partial(CounterMetricFamily, name, text, labels=(*_OF_DEPLOYMENT, *labels)), rows)
        for name, text, bounds, attribute in _HISTOGRAMS:
            ends = (*map(floatToGoString, bounds), "+Inf")
            observed = (
                ((key.namespace, key.name), tuple(zip(ends, accumulate(histogram.counts), strict=True)), histogram.sum)
                for key, counts in deployments
                if any((histogram := getattr(counts, attribute)).counts)
            )
            yield from _pieces(partial(HistogramMetricFamily, name, text, labels=_OF_DEPLOYMENT), observed)
        for name, text, label, by_key in (
            (*_KEY_REQUESTS, "code", self.counts.keys),
            (*_KEY_LIMITED, "limit", self.counts.limited),
        ):
            rows = (
                ((key_id, value), number)
                for key_id, numbers in tuple(by_key.items())
                for value, number in tuple(numbers.items())
            )
            yield from _pieces(partial(CounterMetricFamily, name, text, labels=("key", label)), rows)
        yield GaugeMetricFamily(*_SHARED, int(self._shares_limits()))
        yield CounterMetricFamily(*_LOST_LINES, self._lost_lines())


class _Collector(Collector):
    """Whole families of pieces."""

    def __init__(self, cut: Callable[[], Iterable[Metric]]) -> None:
        self._cut = cut

    def collect(self) -> Iterator[Metric]:
        for _, pieces in groupby(self._cut(), key=lambda piece: piece.name):
            family, *others = pieces
            family.samples += [sample for piece in others for sample in piece.samples]
            yield family


def _pieces(make: Callable[[], Any], rows: Iterable[tuple[Any, ...]]) -> Iterator[Metric]:
    piece = make()
    for row in rows:
        piece.add_metric(*row)
        if len(piece.samples) >= _SAMPLES_AT_ONCE:
            yield piece
            piece = make()
    yield piece


def _by_label(attribute: str) -> _Count:
    """What a dict counts, by its label."""
    return lambda counts: getattr(counts, attribute).items()


def _by_two_labels(attribute: str) -> _Count:
    return lambda counts: (
        (first, second, number)
        for first, numbers in getattr(counts, attribute).items()
        for second, number in numbers.items()
    )


def _by_adapter(kind: str) -> _Count:
    """Tokens of the model itself and of each adapter."""
    return lambda counts: (
        ("", getattr(counts.tokens, kind)),
        *((adapter, getattr(its.tokens, kind)) for adapter, its in counts.adapters.items()),
    )


def _by_key(kind: str) -> _Count:
    return lambda counts: ((key_id, getattr(tokens, kind)) for key_id, tokens in counts.spenders.items())


def _adapter_requests(counts: DeploymentCounts) -> Iterator[tuple[str, str, int]]:
    for adapter, its in counts.adapters.items():
        for code, number in its.requests.items():
            yield adapter, code, number


_GAUGES: Final = (
    ("lull_gateway_held", "Requests that wait for capacity.", "held"),
    ("lull_gateway_held_bytes", "Bytes of their bodies.", "held_bytes"),
    ("lull_gateway_in_flight", "Requests with an engine.", "in_flight"),
)
_COUNTERS: Final[tuple[tuple[str, str, tuple[str, ...], _Count], ...]] = (
    (
        "lull_gateway_requests",
        "Requests by the status they ended with; 499: the client left first. No name: it concerned no model that exists.",
        ("code",),
        _by_label("requests"),
    ),
    (
        "lull_gateway_adapter_requests",
        "Requests for an adapter, by the status they ended with; they count in lull_gateway_requests too.",
        ("adapter", "code"),
        _adapter_requests,
    ),
    (
        "lull_gateway_refused",
        "Requests that the gateway itself said no to, by the code in the error: limits of keys, full queues, time-outs.",
        ("reason",),
        _by_label("refused"),
    ),
    (
        "lull_gateway_aborted",
        "Requests that ended early, by stage: held, waiting for the first byte, or streaming; and by who ended it.",
        ("stage", "by"),
        _by_two_labels("aborted"),
    ),
    (
        "lull_gateway_retries",
        "Tries that failed and were followed by another, by what failed: before the first byte, or where a stream is continued.",
        ("reason",),
        _by_label("retries"),
    ),
    (
        "lull_gateway_fallbacks",
        "Requests that another model was asked for instead: prompt_length (spec.routes), cold, or the code of what would have been refused (spec.fallback).",
        ("cause",),
        _by_label("fallbacks"),
    ),
    (
        "lull_gateway_continued",
        "Times that a stream whose engine had failed was given to another one to continue.",
        (),
        lambda counts: ((counts.continued,),),
    ),
    (
        "lull_gateway_cache_lookups",
        "Requests that looked for their answer in the response cache, by result: hit or miss.",
        ("result",),
        _by_label("lookups"),
    ),
    (
        "lull_gateway_slo_requests",
        "Requests by result: met, answered within spec.slo; missed, answered later, or refused for want of capacity. What was wrong, failed, was left or came from the response cache is in neither.",
        ("result",),
        lambda counts: (("met", counts.service.met), ("missed", counts.service.missed)),
    ),
    (
        "lull_gateway_input_tokens",
        "Tokens of prompts, as the engines counted them. No adapter: the model itself.",
        ("adapter",),
        _by_adapter("input"),
    ),
    (
        "lull_gateway_cached_tokens",
        "Tokens of prompts that an engine's prefix cache had; they count in lull_gateway_input_tokens too.",
        ("adapter",),
        _by_adapter("cached"),
    ),
    (
        "lull_gateway_output_tokens",
        "Tokens of answers, as the engines counted them.",
        ("adapter",),
        _by_adapter("output"),
    ),
    (
        "lull_gateway_key_input_tokens",
        "Tokens of prompts by API key. No key: anonymous; _other: pairs of key and model beyond the first 10,000.",
        ("key",),
        _by_key("input"),
    ),
    (
        "lull_gateway_key_cached_tokens",
        "Tokens of prompts that an engine's prefix cache had, by API key.",
        ("key",),
        _by_key("cached"),
    ),
    ("lull_gateway_key_output_tokens", "Tokens of answers by API key.", ("key",), _by_key("output")),
)
_HISTOGRAMS: Final = (
    (
        "lull_gateway_hold_seconds",
        "Time that a request which had to wait was held.",
        WAITS,
        "held_seconds",
    ),
    (
        "lull_gateway_first_byte_seconds",
        "Time from a request's arrival to the first byte of its answer, held time included.",
        LATENCIES,
        "first_byte_seconds",
    ),
    (
        "lull_gateway_time_to_first_token_seconds",
        "Of streams: time from a request's arrival to the first event of its answer, held time included.",
        FIRST_TOKENS,
        "first_token_seconds",
    ),
    (
        "lull_gateway_time_per_output_token_seconds",
        "Of streams: time between tokens, on average over those after the first.",
        OUTPUT_TOKENS,
        "output_token_seconds",
    ),
    (
        "lull_gateway_request_seconds",
        "Time from a request's arrival to the end of its answer.",
        LATENCIES,
        "seconds",
    ),
)
_KEY_REQUESTS: Final = (
    "lull_gateway_key_requests",
    "Requests by API key and the status they ended with. No key: anonymous, or refused as unknown.",
)
_KEY_LIMITED: Final = (
    "lull_gateway_key_limited",
    "Requests that a limit of their API key refused: requests or tokens (per minute), or tokens_per_day.",
)
_SHARED: Final = (
    "lull_gateway_limits_shared",
    "Whether limits of keys are counted for all gateways together, in Valkey: 0 where there is none, or it is away.",
)
_LOST_LINES: Final = (
    "lull_gateway_lost_log_lines",
    "Lines of the log that were dropped because standard output was not read fast enough.",
)
