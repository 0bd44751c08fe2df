from __future__ import annotations

import json
from typing import Any

import pytest

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, Manifest, parse_llmdeployment
from lull.core.manifests import build
from lull.core.manifests.arguments import OWNED_FLAGS, OWNED_VARIABLES
from tests.manifests import SETTINGS, manifest, stored


def _workload(**spec: Any) -> Manifest:
    return build(stored(manifest(**spec)), SETTINGS)[-1]


def _pod(**spec: Any) -> Manifest:
    pod: Manifest = _workload(**spec)["spec"]["template"]["spec"]
    return pod


def _engine(**spec: Any) -> Manifest:
    engine: Manifest = _pod(**spec)["containers"][0]
    return engine


def _revision(**spec: Any) -> str:
    revision: str = _workload(**spec)["metadata"]["annotations"][names.LABEL_REVISION]
    return revision


@pytest.mark.parametrize("flag", OWNED_FLAGS)
def test_refuses_every_flag_of_its_own_with_what_to_do(flag: str) -> None:
    whole = f"{flag}keyfile" if flag.endswith("-") else flag

    with pytest.raises(InvalidSpec, match=r"extraArgs: --") as refused:
        _workload(engine={"extraArgs": [whole, "value"]})

    assert whole in str(refused.value)


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ("--served-model-name=x", "spec.model.name"),
        ("--served_model_name", "spec.model.name"),
        ("--served-model", "spec.model.name"),
        ("--max_model_len=10", "spec.engine.maxModelLen"),
        ("--max-num-s", "spec.engine.maxNumSeqs"),
        ("-tp", "spec.parallelism.tensor"),
        ("-tp=2", "spec.parallelism.tensor"),
        ("-t", "spec.parallelism.tensor"),
        ("-dpn", "spec.parallelism.tensor"),
        ("-n", "spec.parallelism.tensor"),
        ("--data-parallel-size-local", "spec.parallelism.tensor"),
        ("--no-enforce-eager", "spec.engine.enforceEager"),
        ("--ssl-certfile", "TLS before the gateway"),
        ("--trust_remote_code", "loads code"),
        ("--shutdown-timeout", "spec.rollout.drain"),
        ("--", "spec.model.source"),
    ],
)
def test_refuses_its_own_flags_in_every_spelling(argument: str, instead: str) -> None:
    with pytest.raises(InvalidSpec, match="is refused") as refused:
        _workload(engine={"extraArgs": ["--dtype", "half", argument]})

    assert instead in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dtype", "half"],
        ["--quantization=fp8"],
        ["--speculative-config.method", "ngram"],
        ["--max-num-batched-tokens", "8192"],
        ["--enable-prefix-caching"],
        ["--no-enable-prefix-caching"],
        ["--model-impl", "transformers"],
        ["--tokenizer", "/models/model"],
        ["-O3"],
        ["--sim-decode-ms", "5"],
        ["--hf-overrides", '{"a": 1}'],
        ["--seed", "-1"],
        ["--generation-config", "-"],
    ],
)
def test_passes_other_flags_on_as_they_are(arguments: list[str]) -> None:
    assert _engine(engine={"extraArgs": arguments})["args"][-len(arguments) :] == arguments


@pytest.mark.parametrize("argument", ["--seed 1", "--dtype\thalf", "-O 3"])
def test_refuses_a_flag_and_its_value_in_one_item(argument: str) -> None:
    with pytest.raises(InvalidSpec, match="must be two items"):
        _workload(engine={"extraArgs": [argument]})


def test_refuses_a_second_model_among_the_arguments() -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.model\.source"):
        _workload(engine={"extraArgs": ["org/other-model"]})


@pytest.mark.parametrize("variable", OWNED_VARIABLES)
def test_refuses_every_variable_of_its_own(variable: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"spec\.engine\.env: {variable} is refused: "):
        _workload(engine={"env": [{"name": variable, "value": "1"}]})


def test_every_variable_that_it_sets_is_one_that_users_cannot() -> None:
    assert {variable["name"] for variable in _engine()["env"]} <= OWNED_VARIABLES.keys()


def test_a_template_too_large_to_keep_is_refused() -> None:
    env = [{"name": f"V{number}", "value": "x" * 4096} for number in range(60)]

    with pytest.raises(InvalidSpec, match="too long together"):
        _workload(engine={"env": env})


@pytest.mark.parametrize("name", ["8b", "a" * 41, "llama.8b", "Llama", ""])
def test_refuses_a_name_that_its_service_could_not_have(name: str) -> None:
    with pytest.raises(InvalidSpec, match=r"metadata\.name must be at most 40"):
        build(parse_llmdeployment(manifest(name=name)), SETTINGS)


def test_leaves_the_replica_count_out() -> None:
    assert "replicas" not in _workload(replicas=3)["spec"]


def test_the_grace_period_holds_the_pause_the_drain_and_the_end() -> None:
    pod = _pod(rollout={"drain": "1m30.5s"})
    arguments = pod["containers"][0]["args"]

    assert arguments[arguments.index("--shutdown-timeout") + 1] == "91"
    assert pod["terminationGracePeriodSeconds"] == 3 + 91 + 15


@pytest.mark.parametrize(
    ("source", "loaded"),
    [
        ("hf://org/name@main", "/models/model"),
        ("pvc://weights", "/models"),
        ("pvc://weights/", "/models"),
        ("pvc://weights/a/b", "/models/a/b"),
        ("file:///opt/tiny", "/opt/tiny"),
    ],
)
def test_the_engine_loads_what_is_in_the_pod(source: str, loaded: str) -> None:
    assert _engine(model={"source": source})["args"][0] == loaded


def test_a_token_goes_to_the_fetcher_only() -> None:
    pod = _pod(model={"source": "hf://org/name", "secretName": "hf-token"})

    assert "hf-token" in json.dumps(pod["initContainers"])
    assert "hf-token" not in json.dumps(pod["containers"])


def test_weights_are_read_only_to_the_engine() -> None:
    mounts = [mount for mount in _engine()["volumeMounts"] if mount["name"] == "models"]

    assert mounts == [{"name": "models", "mountPath": "/models", "readOnly": True}]


def test_a_cpu_engine_asks_for_no_device_and_tolerates_no_gpu_taint() -> None:
    pod = _pod(engine={"image": "cpu"}, accelerator={"vendor": "Cpu"}, parallelism={"tensor": 2})

    assert pod["containers"][0]["resources"] == {}
    assert "nvidia" not in json.dumps(pod["tolerations"])


def test_a_file_has_no_owner_to_refer_to() -> None:
    children = build(parse_llmdeployment(manifest()), SETTINGS)

    assert all("ownerReferences" not in child["metadata"] for child in children)


@pytest.mark.parametrize(
    "spec",
    [
        {"scaling": {"maxReplicas": 20, "idleAfter": "1h"}},
        {"queue": {"maxHeld": 1}},
        {"replicas": 4},
        {"engine": {"image": "vllm/vllm-openai:v0.33.0"}},
        {"placement": {"pools": [{"name": "default"}]}},
    ],
)
def test_no_pod_restarts_for_what_it_does_not_depend_on(spec: dict[str, Any]) -> None:
    assert _revision(**spec) == _revision()


@pytest.mark.parametrize(
    "spec",
    [
        {"model": {"source": "hf://org/other"}},
        {"model": {"source": "hf://org/name", "aliases": ["a"]}},
        {"model": {"source": "hf://org/name", "secretName": "a"}},
        {"engine": {"image": "other"}},
        {"engine": {"maxModelLen": 1}},
        {"engine": {"env": [{"name": "A", "value": "b"}]}},
        {"engine": {"extraArgs": ["--seed=1"]}},
        {"parallelism": {"tensor": 2}},
        {"accelerator": {"product": "NVIDIA-L4"}},
        {"resources": {"memory": "8Gi"}},
        {"placement": {"pools": [{"name": "default", "capacityType": "Spot"}]}},
        {"rollout": {"drain": "5s"}},
        {"name": "other"},
    ],
)
def test_a_new_revision_for_what_pods_are_made_of(spec: dict[str, Any]) -> None:
    assert _revision(**spec) != _revision()
