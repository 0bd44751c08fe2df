"""What the gateway counts, LLMDeployment by LLMDeployment and key by key.

Plain arithmetic on the objects below, since every request and every try comes by here; `gateway_metrics` makes samples
of it when somebody scrapes. Nothing here is shared between threads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lull.api.llmdeployment import Key
from lull.core.latencies import Latencies

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_SPENDERS: Final = 10_000
"""Pairs of LLMDeployment and key whose tokens are counted by themselves."""
OTHER: Final = "_other"
"""The key of all others; no key can have this id."""

WAITS: Final[tuple[float, ...]] = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
LATENCIES: Final[tuple[float, ...]] = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    600.0,
    1800.0,
)
FIRST_TOKENS: Final[tuple[float, ...]] = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 600.0, 1800.0),
)
"""OpenTelemetry's for `gen_ai.server.time_to_first_token`, and on to what a cold start takes."""
OUTPUT_TOKENS: Final[tuple[float, ...]] = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""OpenTelemetry's for `gen_ai.server.time_per_output_token`."""


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
class ServiceCounts:
    """How requests fare, for whoever scales by it."""

    finished: int = 0
    """Requests that an engine worked off."""
    met: int = 0
    """Answers within `spec.slo`."""
    missed: int = 0
    """Answers that were too late, and requests that were refused for want of capacity."""
    first_token: Latencies = field(default_factory=Latencies)
    per_token: Latencies = field(default_factory=Latencies)
    whole: Latencies = field(default_factory=Latencies)
    """Of answers that did not stream: not seconds, but shares of what `spec.slo` allows."""


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
    service: ServiceCounts = field(default_factory=ServiceCounts)
    held_seconds: Histogram = field(default_factory=lambda: Histogram(WAITS))
    first_byte_seconds: Histogram = field(default_factory=lambda: Histogram(LATENCIES))
    first_token_seconds: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKENS))
    output_token_seconds: Histogram = field(default_factory=lambda: Histogram(OUTPUT_TOKENS))
    seconds: Histogram = field(default_factory=lambda: Histogram(LATENCIES))


class GatewayCounts:
    """What the pipeline counts."""

    def __init__(self) -> None:
        self.deployments: dict[Key, DeploymentCounts] = {}
        self.keys: defaultdict[str, defaultdict[str, int]] = defaultdict(_counter, {"": _counter()})
        """Requests by key and status."""
        self.limited: defaultdict[str, defaultdict[str, int]] = defaultdict(_counter)
        """Requests by key and the limit that did not let them pass."""
        self._spenders = 0
        self.nobody = self.of(Key("", ""))
        """For requests that concern no LLMDeployment that exists."""

    def of(self, key: Key) -> DeploymentCounts:
        """The counts of an LLMDeployment, which must exist: labels are a closed set."""
        counts = self.deployments.get(key)
        if counts is None:
            counts = self.deployments[key] = DeploymentCounts()
        return counts

    def count_key(self, key_id: str, code: str) -> None:
        """Count a request for an API key; one that is gone counts as none."""
        self.keys[key_id if key_id in self.keys else ""][code] += 1

    def count_limited(self, key_id: str, limit: str) -> None:
        """Count a request that an API key's limit did not let pass."""
        if key_id in self.keys:
            self.limited[key_id][limit] += 1

    def spend(self, counts: DeploymentCounts, key_id: str, given: int, cached: int, made: int) -> None:
        """Count tokens for an API key at an LLMDeployment."""
        if key_id not in counts.spenders:
            key_id = self._admit_spender(key_id)
        counts.spenders[key_id].add(given, cached, made)

    def keep_keys(self, key_ids: Collection[str]) -> None:
        """From now on these API keys exist: the series of all others are dropped."""
        for gone in self.keys.keys() - {"", *key_ids}:
            del self.keys[gone]
            self.limited.pop(gone, None)
            for counts in self.deployments.values():
                if counts.spenders.pop(gone, None) is not None:
                    self._spenders -= 1
        for key_id in key_ids:
            self.keys.setdefault(key_id, _counter())

    def forget(self, key: Key) -> None:
        """Drop the series of an LLMDeployment that is gone."""
        counts = self.deployments.pop(key, None)
        if counts is not None:
            self._spenders -= sum(key_id not in {"", OTHER} for key_id in counts.spenders)

    def forget_adapter(self, key: Key, adapter: str) -> None:
        """Drop the series of an adapter that is no longer listed."""
        counts = self.deployments.get(key)
        if counts is not None:
            counts.adapters.pop(adapter, None)

    def _admit_spender(self, key_id: str) -> str:
        """A key whose tokens were not counted here before; what it counts as."""
        if key_id not in self.keys or not key_id:
            return ""
        if self._spenders >= MAX_SPENDERS:
            return OTHER
        self._spenders += 1
        return key_id
