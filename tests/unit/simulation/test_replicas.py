from __future__ import annotations

import pytest

from lull.core.simulation.presets import PRESETS
from lull.core.simulation.replicas import InvalidReplica, find_preset, parse_replica

PARAMETERS = """
weightsSeconds: 0.01
tokenSeconds: 0.00005
kvSeconds: 1e-7
attentionSeconds: 1e-9
overheadSeconds: 0.002
kvTokens: 100000
"""


def test_knows_how_many_gpus_a_preset_takes() -> None:
    assert find_preset("qwen3-32b-h100-tp2").gpus == 2
    assert find_preset("llama-3.1-8b-l4").gpus == 1


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_serves(name: str) -> None:
    replica = find_preset(name)

    assert 0.001 < replica.model.step_seconds(1, 1000) < 0.2
    assert replica.model.kv_tokens > 10_000


def test_a_preset_can_be_changed() -> None:
    replica = parse_replica("{preset: llama-3.1-8b-l4, maxNumSeqs: 32, gpus: 4}", name="mine")

    assert (replica.name, replica.model.max_num_seqs, replica.gpus) == ("mine", 32, 4)
    assert replica.model.kv_tokens == PRESETS["llama-3.1-8b-l4"].kv_tokens


def test_a_model_on_a_gpu_is_worked_out() -> None:
    replica = parse_replica("{model: Qwen/Qwen3-32B, gpu: H100, tensorParallel: 2}", name="mine")

    assert replica.model == PRESETS["qwen3-32b-h100-tp2"]
    assert replica.gpus == 2


def test_parameters_can_be_given_one_by_one() -> None:
    replica = parse_replica(PARAMETERS, name="mine")

    assert (replica.model.weights_seconds, replica.model.kv_tokens, replica.gpus) == (0.01, 100_000, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("preset: llama-3.1-8b-l5", "did you mean llama-3.1-8b-l4? there are "),
        ("model: Qwen/Qwen3-32B", "model and gpu go together"),
        ("{model: nobody/nothing, gpu: H100}", "nobody/nothing"),
        ("{model: Qwen/Qwen3-32B, gpu: L4}", "does not fit"),
        ("weightsSeconds: 0.01", "lacks tokenSeconds, kvSeconds, "),
        (PARAMETERS + "overheadSecond: 1", "overheadSecond is no parameter; there are: "),
        (PARAMETERS + "knee: fast", "knee is 'fast': write a number"),
        (PARAMETERS + "maxNumSeqs: 0", "maxNumSeqs is 0: write 1 or more"),
        (PARAMETERS + "maxNumSeqs: 1.5", "maxNumSeqs is 1.5: write a whole number"),
        (PARAMETERS + "knee: 0", "knee is 0: write 1 or more"),
        ("- 1", "must hold preset"),
        ("a: [", "is no YAML"),
    ],
)
def test_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(InvalidReplica) as caught:
        parse_replica(text, name="mine")

    assert said in str(caught.value)
