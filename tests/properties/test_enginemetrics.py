"""Our reader of engines' metrics beside Prometheus' own."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lull.core.enginemetrics import parse_metrics

labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
parts = st.dictionaries(labels, st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1)), min_size=1)


@given(parts, labels, st.binary(max_size=40))
def test_reads_what_the_reference_parser_reads(
    engines: dict[str, tuple[int, int, float]], model: str, comment: bytes
) -> None:
    registry = CollectorRegistry()
    gauges = [
        Gauge(name, "A gauge.", ["model_name", "engine"], registry=registry)
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    ]
    tokens = Counter("vllm:generation_tokens", "A counter.", ["model_name", "engine"], registry=registry)
    for engine, values in engines.items():
        for gauge, value in zip(gauges, values, strict=True):
            gauge.labels(model, engine).set(value)
        tokens.labels(model, engine).inc(values[0])
    page = generate_latest(registry)

    sample = parse_metrics(page + b"# " + comment.hex().encode() + b"\n")

    sums: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(page.decode()):
        for one in family.samples:
            sums[one.name] += one.value
    assert sample.running == sums["vllm:num_requests_running"]
    assert sample.waiting == sums["vllm:num_requests_waiting"]
    assert sample.tokens == sums["vllm:generation_tokens_total"]
    assert sample.kv_usage is not None
    assert abs(sample.kv_usage - sums["vllm:kv_cache_usage_perc"] / len(engines)) < 1e-9
