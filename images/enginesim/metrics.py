"""vLLM's metrics page: the families as recorded from the real one (metrics.json), with this engine's values."""

import json
import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Series:
    value: float = 0.0
    total: float = 0.0
    counts: list[int] = field(default_factory=list)
    created: float = 0.0


class Registry:
    """All families, with labels in vLLM's order; a series that vLLM shows from the start is there from the start."""

    def __init__(self, model: str, cache: Mapping[str, str], now: float) -> None:
        recorded: dict[str, Any] = json.loads((Path(__file__).parent / "metrics.json").read_text())
        self._families = recorded
        self._series: dict[str, dict[_Labels, _Series]] = {name: {} for name in recorded}
        self._now = now
        self._model = model
        for name, family in recorded.items():
            for labels in family.get("series", ()):
                named = {key: model if value == "MODEL" else value for key, value in labels.items()}
                self._at(name, {**named, **cache} if name == "vllm:cache_config_info" else named)
        self.set("vllm:cache_config_info", 1.0, **dict(self._only("vllm:cache_config_info")))
        self.set("python_info", 1.0, **dict(self._only("python_info")))
        self.set("process_start_time_seconds", now)

    def set(self, name: str, value: float, **labels: str) -> None:
        self._at(name, labels).value = value

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        self._at(name, labels).value += amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Count a value in a histogram or summary."""
        series = self._at(name, labels)
        series.total += value
        series.value += 1
        for index, bound in enumerate(self._families[name].get("buckets", ())):
            series.counts[index] += value <= bound

    def render(self) -> str:
        """Write Prometheus' text format."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.set("process_cpu_seconds_total", usage.ru_utime + usage.ru_stime)
        self.set("process_resident_memory_bytes", float(_resident_bytes()))
        lines: list[str] = []
        for name, family in self._families.items():
            lines += self._render_family(name, family)
        return "\n".join(lines) + "\n"

    def _render_family(self, name: str, family: dict[str, Any]) -> Iterator[str]:
        yield f"# HELP {name} {family['help']}"
        yield f"# TYPE {name} {family['type']}"
        for labels, series in self._series[name].items():
            if family["type"] == "histogram":
                for bound, count in zip(family.get("buckets", ()), series.counts, strict=True):
                    yield f"{name}_bucket{_render(labels, le=str(float(bound)))} {float(count)}"
                yield f"{name}_bucket{_render(labels, le='+Inf')} {series.value}"
            if family["type"] in ("histogram", "summary"):
                yield f"{name}_count{_render(labels)} {series.value}"
                yield f"{name}_sum{_render(labels)} {series.total}"
            else:
                yield f"{name}{_render(labels)} {series.value}"
        created = (name.removesuffix("_total") if family["type"] == "counter" else name) + "_created"
        if family["created"]:
            yield f"# HELP {created} {family['help']}"
            yield f"# TYPE {created} gauge"
            for labels, series in self._series[name].items():
                yield f"{created}{_render(labels)} {series.created}"

    def _at(self, name: str, labels: Mapping[str, str]) -> _Series:
        wanted = self._families[name]["labels"]
        given = {**labels}
        if "model_name" in wanted:
            given.setdefault("model_name", self._model)
        if "engine" in wanted:
            given.setdefault("engine", "0")
        key = tuple((label, given[label]) for label in wanted)
        family = self._series[name]
        if key not in family:
            buckets = len(self._families[name].get("buckets", ()))
            family[key] = _Series(counts=[0] * buckets, created=time.time() if family else self._now)
        return family[key]

    def _only(self, name: str) -> _Labels:
        return next(iter(self._series[name]))


def _render(labels: _Labels, le: str | None = None) -> str:
    pairs = sorted([*labels, *([("le", le)] if le is not None else [])])
    escaped = ((key, value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')) for key, value in pairs)
    text = ",".join(f'{key}="{value}"' for key, value in escaped)
    return f"{{{text}}}" if text else ""


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
