"""The closed form says what the simulated engine does step by step."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from lull.core.simulation.engine import Request
from lull.core.simulation.fleet import Options, simulate
from lull.core.simulation.presets import PRESETS
from lull.core.simulation.replica import Load, highest_rate, predict
from tests.unit.simulation.models import Fixed


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("qwen3-32b-h100-tp2", Load(input_tokens=4000, output_tokens=1000)),
        ("llama-3.1-8b-h100", Load(input_tokens=1000, output_tokens=250)),
        ("llama-3.3-70b-fp8-h100-tp4", Load(input_tokens=8000, output_tokens=300)),
        ("gpt-oss-120b-h200", Load(input_tokens=500, output_tokens=500)),
        ("llama-3.1-8b-l4", Load(input_tokens=2000, output_tokens=200)),
    ],
)
def test_means_agree(name: str, load: Load, share: float) -> None:
    model = PRESETS[name]
    rate = share * highest_rate(model, replace(load, variability=0), ttft=30, tpot=1)
    chance = random.Random(1)
    requests: list[Request] = []
    at = 0.0
    while len(requests) < 600:
        at += chance.expovariate(rate)
        requests.append(Request(at, int(load.input_tokens), int(load.output_tokens)))

    seen = simulate(requests, Fixed(1), model, Options(initial_replicas=1, max_held=10_000), seed=1)
    said = predict(model, replace(load, rate=rate))

    assert seen.ttft is not None
    assert seen.tpot is not None
    assert said.tpot == pytest.approx(seen.tpot.mean, rel=0.15)
    assert said.ttft == pytest.approx(seen.ttft.mean, rel=0.20)
