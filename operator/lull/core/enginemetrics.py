"""What an engine's `/metrics` says of its load, whichever version of vLLM wrote it.

Of the Prometheus text only the lines of a few families are read: a page has a thousand, and is read every few seconds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_BYTES: Final = 4 * 1024 * 1024
"""Of a page: vLLM's have some 100 kB."""


@dataclass(frozen=True, slots=True)
class EngineSample:
    """The load of one engine, over its data-parallel parts; what is None it does not say.

    The gauges of a part that sleeps stand still at whatever they were, and are left out.
    """

    running: int
    """Sequences: a request with `n`, or with a list of prompts or inputs, is several."""
    waiting: int
    kv_usage: float | None = None
    """Average over the parts that are awake, up to 1."""
    is_asleep: bool = False
    """Whether all parts are."""
    finished: int | None = None
    """Sequences since the engine began; those whose client left are not among them."""
    tokens: int | None = None
    """Read and written since it began: they move while it works."""
    answered: int | None = None
    """Requests for inference over HTTP since it began."""

    @property
    def load(self) -> int:
        return self.running + self.waiting


def parse_metrics(content: bytes) -> EngineSample:
    """Read an engine's `/metrics`; ValueError where it is not one."""
    if len(content) > MOST_BYTES:
        raise ValueError(f"{len(content)} bytes of metrics, over {MOST_BYTES}")
    families: dict[str, dict[str, float]] = defaultdict(dict)
    for line in content.decode().split("\n"):
        # Most lines are not wanted, and this tells so sooner than a pattern.
        found = _LINE.match(line) if line.startswith(_NAMES) else None
        if found is None:
            continue
        name, quoted, number = found.groups(default="")
        labels = dict(_LABEL.findall(quoted))
        if all(wanted(labels.get(label, "")) for label, wanted in _WANTED.get(name, {}).items()):
            part = labels.get("engine", "")
            families[name][part] = families[name].get(part, 0.0) + float(number)
    running, waiting = _pick(families, _RUNNING), _pick(families, _WAITING)
    if running is None or waiting is None:
        raise ValueError(
            f"its metrics say nothing about requests, no {_RUNNING[0]} or {_WAITING[0]}: "
            "not vLLM's, or with --disable-log-stats"
        )
    awake = _pick(families, _AWAKE) or {}
    parts = [part for part in running.keys() | waiting.keys() if awake.get(part, 1.0)]
    swapped, usage = families[_SWAPPED], _pick(families, _KV_USAGE) or {}
    # A version that counts in another unit must not look like a cache that is full.
    usages = [min(usage[part], 1.0) for part in parts if 0 <= usage.get(part, -1.0) <= _MOST_USAGE]
    return EngineSample(
        running=_count(running.get(part, 0.0) for part in parts),
        waiting=_count(waiting.get(part, 0.0) + swapped.get(part, 0.0) for part in parts),
        kv_usage=sum(usages) / len(usages) if usages else None,
        is_asleep=not parts,
        finished=_total(_pick(families, _FINISHED)),
        tokens=_total(_pick(families, _WRITTEN), _pick(families, _READ)),
        answered=_total(_pick(families, _ANSWERED)),
    )


# Each family by its names, that of the latest version first. Where a version has two of them, they say the same.
_RUNNING: Final = ("vllm:num_requests_running",)
_WAITING: Final = ("vllm:num_requests_waiting",)
_SWAPPED: Final = "vllm:num_requests_swapped"
"""Up to 0.10: begun, and put aside for others."""
_KV_USAGE: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
"""The second up to 0.11."""
_AWAKE: Final = ("vllm:engine_sleep_state",)
"""From 0.11 on. Before it, an engine that sleeps shows by tokens that do not move."""
_FINISHED: Final = ("vllm:request_success_total", "vllm:request_success")
_WRITTEN: Final = ("vllm:generation_tokens_total", "vllm:generation_tokens")
_READ: Final = ("vllm:prompt_tokens_total", "vllm:prompt_tokens")
_ANSWERED: Final = ("http_requests_total",)

_INFERENCE: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/rerank",
        "/v2/rerank",
        "/rerank",
        "/v1/score",
        "/score",
        "/classify",
        "/pooling",
        "/invocations",
    }
)
_WANTED: Final = {
    _AWAKE[0]: {"sleep_state": "awake".__eq__},
    # What failed was tried elsewhere, or was never let in.
    _ANSWERED[0]: {"handler": _INFERENCE.__contains__, "status": lambda status: status.startswith("2")},
}
"""Of these families only the series whose labels are so."""
_MOST_USAGE: Final = 1.01

_NAMES: Final = (*_RUNNING, *_WAITING, _SWAPPED, *_KV_USAGE, *_AWAKE, *_FINISHED, *_WRITTEN, *_READ, *_ANSWERED)
_QUOTED: Final = r'"(?:[^"\\\n]|\\.)*"'
_LINE: Final = re.compile(rf'({"|".join(map(re.escape, _NAMES))})(?:\{{((?:[^"{{}}\n]|{_QUOTED})*)\}})?[ \t]+([^\s#]+)')
_LABEL: Final = re.compile(r'(\w+)[ \t]*=[ \t]*"((?:[^"\\\n]|\\.)*)"')


def _pick(families: Mapping[str, Mapping[str, float]], names: Iterable[str]) -> Mapping[str, float] | None:
    """The parts of a family, under the first name that has any."""
    return next((families[name] for name in names if families.get(name)), None)


def _count(parts: Iterable[float]) -> int:
    total = sum(parts)
    if not isfinite(total) or total < 0:
        raise ValueError(f"{total} requests")
    return round(total)


def _total(*counters: Mapping[str, float] | None) -> int | None:
    """The sum of counters; None where there are none, or one of them makes no sense."""
    known = [number for counter in counters if counter is not None for number in counter.values()]
    total = sum(known)
    return int(total) if known and isfinite(total) and total >= 0 else None
