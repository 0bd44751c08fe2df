"""Engines' own metrics, as versions of vLLM write them."""

from __future__ import annotations

import pytest

from images.enginesim.metrics import Registry
from lull.core.enginemetrics import MOST_BYTES, EngineSample, parse_metrics

LATEST = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="weights_offloaded"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="m"} 1000.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 234.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 5.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 6.0
http_requests_total{handler="/v1/chat/completions",method="POST",status="2xx"} 9.0
http_requests_total{handler="/v1/chat/completions",method="POST",status="5xx"} 4.0
http_requests_total{handler="/v1/load_lora_adapter",method="POST",status="2xx"} 7.0
"""
LATEST_SAMPLE = EngineSample(running=3, waiting=2, kv_usage=0.25, finished=11, tokens=1234, answered=9)


def parse(text: str) -> EngineSample:
    return parse_metrics(text.encode())


def test_reads_what_it_needs_and_nothing_else() -> None:
    assert parse(LATEST) == LATEST_SAMPLE


def test_reads_what_engine_sim_writes() -> None:
    registry = Registry("m", {}, 0.0)
    registry.set("vllm:num_requests_running", 2)
    registry.set("vllm:num_requests_waiting", 1)
    registry.set("vllm:kv_cache_usage_perc", 0.5)
    registry.set("vllm:engine_sleep_state", 1.0, sleep_state="awake")
    registry.add("vllm:generation_tokens_total", 7)
    registry.add("vllm:request_success_total", finished_reason="stop")
    registry.add("http_requests_total", handler="/v1/completions", method="POST", status="2xx")

    sample = parse(registry.render())

    assert sample == EngineSample(running=2, waiting=1, kv_usage=0.5, finished=1, tokens=7, answered=1)


def test_reads_the_names_of_earlier_versions() -> None:
    text = (
        'vllm:num_requests_running{model_name="m"} 1.0\n'
        'vllm:num_requests_swapped{model_name="m"} 2.0\n'
        'vllm:num_requests_waiting{model_name="m"} 4.0\n'
        'vllm:gpu_cache_usage_perc{model_name="m"} 0.75\n'
    )

    assert parse(text) == EngineSample(running=1, waiting=6, kv_usage=0.75)


def test_prefers_the_later_name_where_a_version_has_both() -> None:
    text = LATEST + 'vllm:gpu_cache_usage_perc{engine="0",model_name="m"} 0.99\n'

    assert parse(text).kv_usage == 0.25


def test_sums_over_data_parallel_parts_and_averages_their_caches() -> None:
    second = LATEST.replace('engine="0"', 'engine="1"').replace("perc{", "perc{ ").replace("0.25", "0.75")

    sample = parse(LATEST + second)

    assert (sample.running, sample.waiting, sample.kv_usage, sample.tokens) == (6, 4, 0.5, 2468)


def test_leaves_out_the_frozen_gauges_of_a_part_that_sleeps() -> None:
    asleep = LATEST.replace('sleep_state="awake"} 1.0', 'sleep_state="awake"} 0.0')

    sample = parse(LATEST.replace('engine="0"', 'engine="1"') + asleep)

    assert (sample.running, sample.waiting, sample.is_asleep) == (3, 2, False)
    whole = parse(asleep)
    assert (whole.running, whole.waiting, whole.kv_usage, whole.is_asleep) == (0, 0, None, True)


@pytest.mark.parametrize("model", ["a} 7", 'a\\"b', "a{b", "a b,c", "größer"])
def test_a_model_may_be_called_anything(model: str) -> None:
    assert parse(LATEST.replace('"m"', f'"{model}"')) == LATEST_SAMPLE


def test_takes_timestamps_and_odd_blanks() -> None:
    text = (
        'vllm:num_requests_running{engine = "0", model_name="m",}\t1 1700000000000\r\nvllm:num_requests_waiting 2\r\n'
    )

    assert parse(text) == EngineSample(running=1, waiting=2)


@pytest.mark.parametrize("usage", ["NaN", "-0.1", "57.0", "+Inf"])
def test_a_usage_that_makes_no_sense_is_unknown(usage: str) -> None:
    assert parse(LATEST.replace("} 0.25", f"}} {usage}")).kv_usage is None


def test_a_counter_that_makes_no_sense_is_unknown() -> None:
    assert parse(LATEST.replace("1000.0", "NaN")).tokens is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "\x00\xff",
        "vllm:num_requests_running 1\n",
        LATEST.replace("} 3.0", "} NaN"),
        LATEST.replace("} 3.0", "} -3"),
        LATEST.replace("} 2.0", "} +Inf"),
        LATEST.replace("} 3.0", "} three"),
        "#" * (MOST_BYTES + 1),
    ],
)
def test_refuses_what_does_not_say_how_many_requests_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"vllm:|requests|float|bytes|codec"):
        parse_metrics(text.encode("latin-1"))
