"""The gateway's series for Prometheus. Labels are closed sets, or LLMDeployments, adapters and keys that exist.

Counting is plain arithmetic on the objects below, since every request and every try comes by here; samples with
labels are made of it when somebody scrapes. Nothing here is shared between threads.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain, groupby
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from lull.api.llmdeployment import Key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from prometheus_client.core import Metric

    from lull.core.admission import Demand

MAX_SPENDERS: Final = 10_000
"""Pairs of LLMDeployment and key whose tokens are counted by themselves."""
OTHER: Final = "_other"
"""The key of all others; no key can have this id."""

WAITS: Final = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
LATENCIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0)
FIRST_TOKENS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 600.0, 1800.0),
)
"""OpenTelemetry's for `gen_ai.server.time_to_first_token`, and on to what a cold start takes."""
OUTPUT_TOKENS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""OpenTelemetry's for `gen_ai.server.time_per_output_token`."""

_Count = Callable[["DeploymentCounts"], Iterable[tuple[Any, ...]]]
"""Reads values of further labels, and the number."""
_OF_DEPLOYMENT: Final = ("namespace", "name")
_SAMPLES_AT_ONCE: Final = 64
"""Lines made before requests have their turn: half a millisecond of work."""
_HEAD: Final = re.compile(rb"\A(?:#.*\n)+")
_END: Final = b"# EOF\n"
"""Of OpenMetrics only."""


@dataclass(slots=True)
class Histogram:
    """How often a value fell between two bounds, and the sum of all values."""

    _bounds: tuple[float, ...]
    """Upper ones, each part of its own bucket."""
    counts: list[int] = field(init=False)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self._bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


def _counter() -> defaultdict[str, int]:
    return defaultdict(int)


@dataclass(slots=True)
class Tokens:
    """Tokens as the engines count them; those that a prefix cache had are part of the input."""

    input: int = 0
    cached: int = 0
    output: int = 0

    def add(self, given: int, cached: int, made: int) -> None:
        self.input += given
        self.cached += cached
        self.output += made


@dataclass(slots=True)
class AdapterCounts:
    requests: defaultdict[str, int] = field(default_factory=_counter)
    """By status."""
    tokens: Tokens = field(default_factory=Tokens)


@dataclass(slots=True)
class DeploymentCounts:
    """Everything that is counted for one LLMDeployment. What is a dict is counted by the label that its line names."""

    requests: defaultdict[str, int] = field(default_factory=_counter)
    """By status."""
    tokens: Tokens = field(default_factory=Tokens)
    """Of the model itself, without its adapters."""
    adapters: defaultdict[str, AdapterCounts] = field(default_factory=lambda: defaultdict(AdapterCounts))
    spenders: defaultdict[str, Tokens] = field(default_factory=lambda: defaultdict(Tokens))
    """By id of the key; those of adapters are included."""
    retries: defaultdict[str, int] = field(default_factory=_counter)
    """By `Failure`."""
    aborted: defaultdict[str, defaultdict[str, int]] = field(default_factory=lambda: defaultdict(_counter))
    """By `Stage`, and by who ended it."""
    refused: defaultdict[str, int] = field(default_factory=_counter)
    """By the refusal's code."""
    fallbacks: defaultdict[str, int] = field(default_factory=_counter)
    """By cause."""
    continued: int = 0
    lookups: defaultdict[str, int] = field(default_factory=_counter)
    """In the response cache, by result."""
    held_seconds: Histogram = field(default_factory=lambda: Histogram(WAITS))
    first_byte_seconds: Histogram = field(default_factory=lambda: Histogram(LATENCIES))
    first_token_seconds: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKENS))
    output_token_seconds: Histogram = field(default_factory=lambda: Histogram(OUTPUT_TOKENS))
    seconds: Histogram = field(default_factory=lambda: Histogram(LATENCIES))


class GatewayMetrics:
    """What the pipeline counts, and gauges that are read off admission at each scrape."""

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
        self._deployments: dict[Key, DeploymentCounts] = {}
        self._keys: defaultdict[str, defaultdict[str, int]] = defaultdict(_counter, {"": _counter()})
        self._limited: defaultdict[str, defaultdict[str, int]] = defaultdict(_counter)
        self._spenders = 0
        self.nobody = self.of(Key("", ""))
        """For requests that concern no LLMDeployment that exists."""
        self.registry = CollectorRegistry()
        self.registry.register(_Collector(self._cut))
        self._process = CollectorRegistry()
        GCCollector(self._process)
        PlatformCollector(self._process)
        ProcessCollector(registry=self._process)

    def of(self, key: Key) -> DeploymentCounts:
        """The counts of an LLMDeployment, which must exist: labels are a closed set."""
        counts = self._deployments.get(key)
        if counts is None:
            counts = self._deployments[key] = DeploymentCounts()
        return counts

    def count_key(self, key_id: str, code: str) -> None:
        """Count a request for an API key; one that is gone counts as none."""
        self._keys[key_id if key_id in self._keys else ""][code] += 1

    def count_limited(self, key_id: str, limit: str) -> None:
        """Count a request that an API key's limit did not let pass."""
        if key_id in self._keys:
            self._limited[key_id][limit] += 1

    def spend(self, counts: DeploymentCounts, key_id: str, given: int, cached: int, made: int) -> None:
        """Count tokens for an API key at an LLMDeployment."""
        if key_id not in counts.spenders:
            key_id = self._admit_spender(key_id)
        counts.spenders[key_id].add(given, cached, made)

    def keep_keys(self, key_ids: Collection[str]) -> None:
        """From now on these API keys exist: the series of all others are dropped."""
        for gone in self._keys.keys() - {"", *key_ids}:
            del self._keys[gone]
            self._limited.pop(gone, None)
            for counts in self._deployments.values():
                if counts.spenders.pop(gone, None) is not None:
                    self._spenders -= 1
        for key_id in key_ids:
            self._keys.setdefault(key_id, _counter())

    def forget(self, key: Key) -> None:
        """Drop the series of an LLMDeployment that is gone."""
        counts = self._deployments.pop(key, None)
        if counts is not None:
            self._spenders -= sum(key_id not in {"", OTHER} for key_id in counts.spenders)

    def forget_adapter(self, key: Key, adapter: str) -> None:
        """Drop the series of an adapter that is no longer listed."""
        counts = self._deployments.get(key)
        if counts is not None:
            counts.adapters.pop(adapter, None)

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

    def _admit_spender(self, key_id: str) -> str:
        """A key whose tokens were not counted here before; what it counts as."""
        if key_id not in self._keys or not key_id:
            return ""
        if self._spenders >= MAX_SPENDERS:
            return OTHER
        self._spenders += 1
        return key_id

    def _cut(self) -> Iterator[Metric]:
        """All families, those with many samples in several pieces under the same name.

        Counting goes on between two pieces, so nothing that may grow is iterated across them.
        """
        deployments = tuple(self._deployments.items())
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
            (*_KEY_REQUESTS, "code", self._keys),
            (*_KEY_LIMITED, "limit", self._limited),
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
