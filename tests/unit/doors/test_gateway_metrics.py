"""What is exposed is what was counted, under labels that are known beforehand."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from lull.api.llmdeployment import Key
from lull.core.admission import Demand
from lull.doors.gateway_counts import MAX_SPENDERS, OTHER, WAITS
from lull.doors.gateway_metrics import GatewayMetrics

LLAMA = Key("team-a", "llama")
QWEN = Key("team-a", "qwen")
FULL = Key("team-a", "full")
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

seconds = st.floats(min_value=0, max_value=1e4, allow_nan=False)


def build_metrics() -> GatewayMetrics:
    return GatewayMetrics(dict)


def render(metrics: GatewayMetrics, accept: str = "") -> str:
    return asyncio.run(metrics.render(accept))[0].decode()


def read(metrics: GatewayMetrics, name: str) -> dict[tuple[str, ...], float]:
    """Samples of one name, by the values of their labels without namespace, in the labels' order."""
    return {
        tuple(value for label, value in sorted(sample.labels.items()) if label != "namespace"): sample.value
        for family in parse_text(render(metrics))
        for sample in family.samples
        if sample.name == name
    }


@given(st.lists(seconds))
def test_a_histogram_counts_each_value_once_and_in_its_bucket(values: list[float]) -> None:
    metrics = build_metrics()
    for value in values:
        metrics.counts.of(LLAMA).held_seconds.observe(value)

    buckets = read(metrics, "lull_gateway_hold_seconds_bucket")

    assert read(metrics, "lull_gateway_hold_seconds_count") == ({("llama",): len(values)} if values else {})
    assert {bound: number for (bound, _), number in buckets.items()} == (
        {str(bound): sum(value <= bound for value in values) for bound in WAITS} | {"+Inf": len(values)}
        if values
        else {}
    )
    assert all(one <= other for one, other in pairwise(buckets.values()))
    assert sum(read(metrics, "lull_gateway_hold_seconds_sum").values()) == pytest.approx(sum(values))


def test_both_formats_say_the_same() -> None:
    metrics = GatewayMetrics(lambda: {LLAMA: Demand(held=3, held_bytes=300, in_flight=2, arrived=9, since_last=0)})
    counts = metrics.counts.of(LLAMA)
    counts.requests["200"] += 2
    counts.aborted["streaming"]["client"] += 1
    counts.adapters["fr"].tokens.add(7, 3, 5)
    counts.seconds.observe(0.4)

    def samples(families: object) -> set[object]:
        return {
            (sample.name, *sorted(sample.labels.items()), sample.value)
            for family in families  # type: ignore[attr-defined]
            for sample in family.samples
            if sample.name.startswith("lull_")
        }

    text = samples(parse_text(render(metrics)))
    assert text == samples(parse_openmetrics(render(metrics, OPENMETRICS)))  # type: ignore[no-untyped-call]
    assert ("lull_gateway_held", ("name", "llama"), ("namespace", "team-a"), 3.0) in text
    assert (
        "lull_gateway_input_tokens_total",
        ("adapter", "fr"),
        ("name", "llama"),
        ("namespace", "team-a"),
        7.0,
    ) in text


def test_the_format_is_the_one_that_is_asked_for() -> None:
    metrics = build_metrics()

    assert asyncio.run(metrics.render(""))[1].startswith("text/plain; version=0.0.4")
    assert asyncio.run(metrics.render(OPENMETRICS))[1].startswith("application/openmetrics-text")
    assert render(metrics, OPENMETRICS).count("# EOF") == 1


def test_a_family_that_is_made_in_pieces_is_one_family() -> None:
    metrics = build_metrics()
    for number in range(300):
        metrics.counts.of(Key("ns", f"m{number}")).seconds.observe(1)
        metrics.counts.of(Key("ns", f"m{number}")).requests["200"] += 1

    text = render(metrics)

    assert text.count("# TYPE lull_gateway_request_seconds histogram") == 1
    assert len(read(metrics, "lull_gateway_request_seconds_count")) == 300
    assert sum(read(metrics, "lull_gateway_requests_total").values()) == 300


async def test_counting_goes_on_while_it_is_rendered() -> None:
    metrics = build_metrics()
    for number in range(100):
        metrics.counts.of(Key("ns", f"m{number}")).seconds.observe(1)
    rendering = asyncio.create_task(metrics.render())
    for number in range(200):
        counts = metrics.counts.of(Key("ns", f"n{number}"))
        counts.requests[str(200 + number)] += 1
        metrics.counts.nobody.requests[str(200 + number)] += 1
        metrics.counts.forget(Key("ns", f"m{number}"))
        metrics.counts.keep_keys([f"k{number}"])
        metrics.counts.count_key(f"k{number}", "200")
        await asyncio.sleep(0)

    body, _ = await rendering

    assert list(parse_text(body.decode()))


def test_nothing_is_left_of_a_deployment_that_is_gone() -> None:
    metrics = build_metrics()
    for key in (LLAMA, QWEN):
        counts = metrics.counts.of(key)
        counts.requests["200"] += 1
        counts.adapters["fr"].requests["200"] += 1
        counts.seconds.observe(1)
        metrics.counts.spend(counts, "", 1, 0, 1)

    metrics.counts.forget(LLAMA)

    text = render(metrics)
    assert "llama" not in text
    assert "qwen" in text


def test_nothing_is_left_of_an_adapter_that_is_gone() -> None:
    metrics = build_metrics()
    metrics.counts.of(LLAMA).adapters["fr"].requests["200"] += 1
    metrics.counts.of(LLAMA).adapters["de"].requests["200"] += 1

    metrics.counts.forget_adapter(LLAMA, "fr")
    metrics.counts.forget_adapter(QWEN, "fr")

    assert read(metrics, "lull_gateway_adapter_requests_total") == {("de", "200", "llama"): 1}


class TestKeys:
    def test_keys_that_do_not_exist_count_as_none(self) -> None:
        metrics = build_metrics()
        metrics.counts.keep_keys(["alice"])
        for key_id in ("alice", "mallory", ""):
            metrics.counts.count_key(key_id, "200")
            metrics.counts.spend(metrics.counts.of(LLAMA), key_id, 10, 4, 1)

        assert read(metrics, "lull_gateway_key_requests_total") == {("200", "alice"): 1, ("200", ""): 2}
        assert read(metrics, "lull_gateway_key_input_tokens_total") == {("alice", "llama"): 10, ("", "llama"): 20}
        assert read(metrics, "lull_gateway_key_cached_tokens_total") == {("alice", "llama"): 4, ("", "llama"): 8}

    def test_nothing_is_left_of_a_key_that_is_gone(self) -> None:
        metrics = build_metrics()
        metrics.counts.keep_keys(["alice", "bob"])
        for key_id in ("alice", "bob"):
            metrics.counts.count_key(key_id, "200")
            metrics.counts.count_limited(key_id, "tokens")
            metrics.counts.spend(metrics.counts.of(LLAMA), key_id, 10, 4, 1)

        metrics.counts.keep_keys(["bob", "carol"])
        metrics.counts.count_limited("alice", "tokens")

        assert "alice" not in render(metrics)
        assert read(metrics, "lull_gateway_key_requests_total") == {("200", "bob"): 1}
        assert read(metrics, "lull_gateway_key_limited_total") == {("bob", "tokens"): 1}

    def test_pairs_of_key_and_deployment_are_bounded(self) -> None:
        metrics = build_metrics()
        others = [f"k{number}" for number in range(MAX_SPENDERS - 2)]
        metrics.counts.keep_keys(["a", "b", "c", *others])
        for key_id in others:
            metrics.counts.spend(metrics.counts.of(FULL), key_id, 1, 0, 0)
        for key_id in ("", "a", "b", "c", "a"):
            metrics.counts.spend(metrics.counts.of(LLAMA), key_id, 1, 0, 0)

        name = "lull_gateway_key_input_tokens_total"
        of_llama = {labels: value for labels, value in read(metrics, name).items() if labels[1] == "llama"}
        assert of_llama == {("", "llama"): 1, ("a", "llama"): 2, ("b", "llama"): 1, (OTHER, "llama"): 1}

        metrics.counts.keep_keys(["a", "c", *others])
        metrics.counts.spend(metrics.counts.of(QWEN), "c", 1, 0, 0)
        assert ("c", "qwen") in read(metrics, name)

        metrics.counts.forget(LLAMA)
        metrics.counts.spend(metrics.counts.of(QWEN), "a", 1, 0, 0)
        assert ("a", "qwen") in read(metrics, name)
