"""The engine's command line and environment, and what users may not put there."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Final

from lull.api.llmdeployment import InvalidSpec, LLMDeployment, Manifest
from lull.api.names import PORT_ENGINE
from lull.api.quantities import parse_duration

if TYPE_CHECKING:
    from lull.api.engine import EngineSpec
    from lull.core.manifests.sources import Source

HOME: Final = "/home/vllm"
STARTUP_SECONDS: Final = 3600
"""Longest time from the engine's start to its first healthy answer; then the kubelet restarts it."""

_OURS: Final = "Lull sets it itself"
_GPUS: Final = "a replica is one pod here; use spec.parallelism.tensor"
_CODE: Final = "it loads code into the engine"
_OPEN: Final = "it opens the engine to callers that the gateway does not see"

# Flags of `vllm serve` that Lull owns, and what to do instead.
OWNED_FLAGS: Final = {
    "--model": "use spec.model.source",
    "--model-tag": "use spec.model.source",
    "--revision": "use spec.model.source: hf://org/name@revision",
    "--code-revision": _CODE,
    "--served-model-name": "use spec.model.name and spec.model.aliases",
    "--hf-token": "use spec.model.secretName",
    "--host": _OURS,
    "--port": _OURS,
    "--uds": _OURS,
    "--grpc": _OURS,
    "--headless": _OURS,
    "--root-path": _OURS,
    "--download-dir": _OURS,
    "--config": "use spec.engine.extraArgs: one flag per item",
    "--api-key": "the gateway is the door to the engine, and only it reaches the port",
    "--tensor-parallel-size": "use spec.parallelism.tensor",
    "--pipeline-parallel-size": _GPUS,
    "--data-parallel-": _GPUS,
    "--nnodes": _GPUS,
    "--node-rank": _GPUS,
    "--master-addr": _GPUS,
    "--master-port": _GPUS,
    "--max-model-len": "use spec.engine.maxModelLen",
    "--max-num-seqs": "use spec.engine.maxNumSeqs",
    "--enforce-eager": "use spec.engine.enforceEager",
    "--shutdown-timeout": "use spec.rollout.drain",
    "--enable-lora": "adapters are not served by this version of Lull",
    "--lora-modules": "adapters are not served by this version of Lull",
    "--trust-remote-code": _CODE,
    "--tool-parser-plugin": _CODE,
    "--reasoning-parser-plugin": _CODE,
    "--middleware": _CODE,
    "--worker-cls": _CODE,
    "--worker-extension-cls": _CODE,
    "--logits-processors": _CODE,
    "--tool-server": _OPEN,
    "--allowed-local-media-path": "it lets clients read files of the pod",
    "--ssl-": "engines are reached inside the cluster only; put TLS before the gateway",
}
_SHORT_FLAGS: Final = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-",
    "-n": "--nnodes",
    "-r": "--node-rank",
}

OWNED_VARIABLES: Final = {
    "HOME": _OURS,
    "HF_HOME": _OURS,
    "HF_HUB_OFFLINE": _OURS,
    "HF_ENDPOINT": "the hub is a setting of the operator (hubEndpoint in the chart)",
    "HF_TOKEN": "use spec.model.secretName",
    "HUGGING_FACE_HUB_TOKEN": "use spec.model.secretName",
    "USER": _OURS,
    "VLLM_ENGINE_READY_TIMEOUT_S": _OURS,
    "VLLM_API_KEY": "the gateway is the door to the engine, and only it reaches the port",
    "VLLM_CACHE_ROOT": _OURS,
    "VLLM_HOST_IP": _OURS,
    "VLLM_NO_USAGE_STATS": _OURS,
    "VLLM_PORT": _OURS,
    "VLLM_SERVER_DEV_MODE": _OPEN,
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": _OPEN,
    "VLLM_TORCH_PROFILER_DIR": _OPEN,
    "VLLM_ALLOW_INSECURE_SERIALIZATION": _CODE,
    "VLLM_PLUGINS": _CODE,
}
OWNED_PREFIXES: Final = {"LD_": _CODE, "PYTHON": _CODE}


def build_arguments(deployment: LLMDeployment, source: Source) -> list[str]:
    """Arguments of `vllm serve`, which is the image's entry point."""
    spec = deployment.spec
    engine = spec.engine
    _check_arguments(engine.extra_args)
    return [
        source.path,
        "--served-model-name",
        *deployment.served_names,
        "--host",
        "0.0.0.0",
        "--port",
        str(PORT_ENGINE),
        "--tensor-parallel-size",
        str(spec.parallelism.tensor),
        *(["--max-model-len", str(engine.max_model_len)] if engine.max_model_len is not None else []),
        *(["--max-num-seqs", str(engine.max_num_seqs)] if engine.max_num_seqs is not None else []),
        *(["--enforce-eager"] if engine.enforce_eager else []),
        "--shutdown-timeout",
        str(ceil(parse_duration(spec.rollout.drain))),
        *engine.extra_args,
    ]


def build_environment(engine: EngineSpec) -> list[Manifest]:
    """Environment of the engine: caches in writable places, no word to outside, then the user's own."""
    _check_environment(engine)
    return [
        {"name": "HOME", "value": HOME},
        # torch names a cache after its user, and the image may not know user 2000.
        {"name": "USER", "value": "vllm"},
        {"name": "HF_HOME", "value": f"{HOME}/huggingface"},
        # Weights are in the pod before the engine starts: a hub that is down must not matter to it.
        {"name": "HF_HUB_OFFLINE", "value": "1"},
        {"name": "VLLM_CACHE_ROOT", "value": f"{HOME}/vllm"},
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
        # vLLM would give up on its own engine core after ten minutes; the startup probe is the one limit.
        {"name": "VLLM_ENGINE_READY_TIMEOUT_S", "value": str(STARTUP_SECONDS)},
        {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *({"name": variable.name, "value": variable.value} for variable in engine.env),
    ]


def _check_arguments(arguments: list[str]) -> None:
    if arguments and not arguments[0].startswith("-"):
        raise InvalidSpec(
            f"spec.engine.extraArgs: the first item, {arguments[0]!r}, is no flag; the model itself is spec.model.source"
        )
    for argument in arguments:
        if argument.startswith("-") and any(character.isspace() for character in argument.partition("=")[0]):
            raise InvalidSpec(f"spec.engine.extraArgs: {argument!r} must be two items, the flag and its value")
        if (owned := _find_owned(argument)) is not None:
            raise InvalidSpec(f"spec.engine.extraArgs: {argument.partition('=')[0]} is refused: {OWNED_FLAGS[owned]}")


def _find_owned(argument: str) -> str | None:
    """The flag of ours that an argument would set, in any spelling that vLLM's parser takes for it."""
    # vLLM reads underscores as hyphens, and `--flag.key` as one key of a JSON flag.
    flag = argument.partition("=")[0].partition(".")[0].replace("_", "-")
    if flag.startswith("-dp"):
        return _SHORT_FLAGS["-dp"]
    if not flag.startswith("--"):
        # argparse completes abbreviations: -t is -tp.
        return next((owned for short, owned in _SHORT_FLAGS.items() if len(flag) > 1 and short.startswith(flag)), None)
    for spelling in (flag, flag.replace("--no-", "--", 1)):
        for owned in OWNED_FLAGS:
            is_family = owned.endswith("-") and spelling.startswith(owned)
            # argparse completes an abbreviation, and a bare `--` would turn what follows into positionals.
            if is_family or owned.startswith(spelling):
                return owned
    return None


def _check_environment(engine: EngineSpec) -> None:
    for variable in engine.env:
        why = OWNED_VARIABLES.get(variable.name) or next(
            (why for prefix, why in OWNED_PREFIXES.items() if variable.name.startswith(prefix)), None
        )
        if why is not None:
            raise InvalidSpec(f"spec.engine.env: {variable.name} is refused: {why}")
