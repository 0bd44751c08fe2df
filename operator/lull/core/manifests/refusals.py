"""What users may not put on the engine's command line or into its environment, and what to do instead."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from lull.api.llmdeployment import InvalidSpec

if TYPE_CHECKING:
    from lull.api.engine import EngineSpec

_OURS: Final = "Lull sets it itself"
_ACCELERATORS: Final = "use spec.parallelism and spec.accelerator, from which Lull asks for accelerators"
_CODE: Final = "it loads code into the engine"
_OPEN: Final = "it opens the engine to callers that the gateway does not see"
_KEY: Final = "the gateway is the door to the engine, and only it reaches the port"
_SPECULATIVE: Final = "use spec.engine.speculative; further keys may follow as --speculative-config.KEY"
_STRUCTURED: Final = (
    "use spec.engine.structuredOutputsBackend; further keys may follow as --structured-outputs-config.KEY"
)
_ATTENTION: Final = "use spec.engine.attentionBackend; further keys may follow as --attention-config.KEY"

OWNED_FLAGS: Final = {
    "--model": "use spec.model.source",
    "--model-tag": "use spec.model.source",
    "--revision": "use spec.model.source: hf://org/name@revision",
    "--code-revision": "use spec.model.source: hf://org/name@revision",
    "--served-model-name": "use spec.model.name and spec.model.aliases",
    "--runner": "use spec.model.task",
    "--convert": "use spec.model.task",
    "--task": "use spec.model.task",
    "--trust-remote-code": "use spec.model.trustRemoteCode",
    "--hf-token": "use spec.model.secretName",
    "--host": _OURS,
    "--port": _OURS,
    "--uds": _OURS,
    "--grpc": _OURS,
    "--grpc-port": _OURS,
    "--headless": _OURS,
    "--root-path": _OURS,
    "--download-dir": _OURS,
    "--config": "use spec.engine.extraArgs: one flag per item",
    "--api-key": _KEY,
    "--dtype": "use spec.engine.dtype",
    "--quantization": "use spec.engine.quantization",
    "--kv-cache-dtype": "use spec.engine.kvCacheDtype",
    "--load-format": "use spec.engine.loadFormat",
    "--max-model-len": "use spec.engine.maxModelLen",
    "--max-num-seqs": "use spec.engine.maxNumSeqs",
    "--max-num-batched-tokens": "use spec.engine.maxNumBatchedTokens",
    "--gpu-memory-utilization": "use spec.engine.gpuMemoryUtilization",
    "--device-memory-utilization": "use spec.engine.gpuMemoryUtilization",
    "--enable-prefix-caching": "use spec.engine.prefixCaching",
    "--enforce-eager": "use spec.engine.enforceEager",
    "--kv-offloading-size": "use spec.engine.kvOffload.cpu",
    "--attention-backend": "use spec.engine.attentionBackend",
    "--attention-config": _ATTENTION,
    "--attention-config.backend": _ATTENTION,
    "--structured-outputs-config": _STRUCTURED,
    "--structured-outputs-config.backend": _STRUCTURED,
    "--structured-outputs-config.reasoning_parser_plugin": _CODE,
    "--speculative-config": _SPECULATIVE,
    "--speculative-config.method": _SPECULATIVE,
    "--speculative-config.model": _SPECULATIVE,
    "--speculative-config.num_speculative_tokens": _SPECULATIVE,
    "--spec-method": _SPECULATIVE,
    "--spec-model": _SPECULATIVE,
    "--spec-tokens": _SPECULATIVE,
    "--shutdown-timeout": "use spec.rollout.drain",
    "--tensor-parallel-size": "use spec.parallelism.tensor",
    "--pipeline-parallel-size": "use spec.parallelism.pipeline",
    "--prefill-context-parallel-size": _ACCELERATORS,
    "--data-parallel-": "use spec.parallelism.data",
    "--enable-expert-parallel": "use spec.parallelism.expert",
    "--enable-elastic-ep": _ACCELERATORS,
    "--nnodes": "use spec.accelerator.nodesPerReplica",
    "--node-rank": "use spec.accelerator.nodesPerReplica",
    "--master-addr": "use spec.accelerator.nodesPerReplica",
    "--master-port": "use spec.accelerator.nodesPerReplica",
    "--distributed-executor-backend": _OURS,
    "--device-ids": _ACCELERATORS,
    "--enable-sleep-mode": "use spec.scaling.sleep",
    "--enable-lora": "use spec.adapters",
    "--lora-modules": "use spec.adapters.items",
    "--max-loras": "use spec.adapters.maxLoaded",
    "--max-lora-rank": "use spec.adapters.maxRank",
    "--max-cpu-loras": "use spec.adapters.cpuSlots",
    "--tool-parser-plugin": _CODE,
    "--reasoning-parser-plugin": _CODE,
    "--io-processor-plugin": _CODE,
    "--middleware": _CODE,
    "--worker-cls": _CODE,
    "--worker-extension-cls": _CODE,
    "--scheduler-cls": _CODE,
    "--model-class-overrides": _CODE,
    "--logits-processors": _CODE,
    "--kv-transfer-config.kv_connector_module_path": _CODE,
    "--ec-transfer-config.ec_connector_module_path": _CODE,
    "--log-config-file": _CODE,
    "--logging-config.pylogging_config_file": _CODE,
    "--tool-server": _OPEN,
    "--profiler-config": _OPEN,
    "--allowed-local-media-path": "it lets clients read files of the pod",
    "--ssl-": "engines are reached inside the cluster only; put TLS before the gateway",
}
"""Flags of `vllm serve` that are refused. One that ends in a hyphen stands for a family, one with a dot for a key of a
flag that takes JSON."""

_SHORT_FLAGS: Final = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
    "-dp": "--data-parallel-",
    "-ep": "--enable-expert-parallel",
    "-sc": "--speculative-config",
    "-ac": "--attention-config",
    "-n": "--nnodes",
    "-r": "--node-rank",
    "-q": "--quantization",
}
_FREE_FLAGS: Final = frozenset({"--reasoning-parser"})
"""Whole flags that begin one of ours, so that they are no abbreviation of it."""
_CODE_KEYS: Final = frozenset(
    {"kv_connector_module_path", "ec_connector_module_path", "pylogging_config_file", "reasoning_parser_plugin"}
)
"""Keys in the JSON of a flag by which a module is loaded."""

OWNED_VARIABLES: Final = {
    "HOME": _OURS,
    "HF_HOME": _OURS,
    "HF_HUB_OFFLINE": _OURS,
    "HF_ENDPOINT": "the hub is a setting of the operator (hubEndpoint in the chart)",
    "HF_TOKEN": "use spec.model.secretName",
    "HUGGING_FACE_HUB_TOKEN": "use spec.model.secretName",
    "USER": _OURS,
    "VLLM_ENGINE_READY_TIMEOUT_S": _OURS,
    "VLLM_API_KEY": _KEY,
    "VLLM_CACHE_ROOT": "use spec.engine.compileCache",
    "VLLM_HOST_IP": _OURS,
    "VLLM_NO_USAGE_STATS": _OURS,
    "VLLM_PORT": _OURS,
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "a dead engine must end, or nothing would replace it",
    "VLLM_MODEL_REDIRECT_PATH": "use spec.model.source",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "use spec.adapters",
    "VLLM_LORA_RESOLVER_CACHE_DIR": "use spec.adapters",
    "VLLM_LORA_RESOLVER_HF_REPO_LIST": "use spec.adapters",
    "VLLM_SERVER_DEV_MODE": f"{_OPEN}; for sleep mode use spec.scaling.sleep",
    "VLLM_TORCH_PROFILER_DIR": _OPEN,
    "VLLM_ALLOW_INSECURE_SERIALIZATION": _CODE,
    "VLLM_PLUGINS": _CODE,
    "VLLM_LOGGING_CONFIG_PATH": _CODE,
    "VLLM_NCCL_SO_PATH": _CODE,
    "VLLM_CUDART_SO_PATH": _CODE,
    "VLLM_CUDA_COMPATIBILITY_PATH": _CODE,
    "VLLM_RUST_FRONTEND_PATH": _CODE,
    "NVIDIA_VISIBLE_DEVICES": _ACCELERATORS,
    "CUDA_INJECTION64_PATH": _CODE,
    "NVTX_INJECTION64_PATH": _CODE,
    "BASH_ENV": _CODE,
    "GCONV_PATH": _CODE,
    "PATH": _CODE,
}
OWNED_PREFIXES: Final = {
    "LD_": _CODE,
    "PYTHON": _CODE,
    "VLLM_DP_": "use spec.parallelism.data",
}


def check_arguments(arguments: list[str]) -> None:
    """InvalidSpec where an extra argument sets what is Lull's."""
    if arguments and not arguments[0].startswith("-"):
        raise InvalidSpec(
            f"spec.engine.extraArgs: the first item, {arguments[0]!r}, is no flag; the model itself is spec.model.source"
        )
    for argument in arguments:
        if argument.startswith("-") and any(character.isspace() for character in argument.partition("=")[0]):
            raise InvalidSpec(f"spec.engine.extraArgs: {argument!r} must be two items, the flag and its value")
        if (owned := _find_owned(argument)) is not None:
            raise InvalidSpec(f"spec.engine.extraArgs: {argument.partition('=')[0]} is refused: {OWNED_FLAGS[owned]}")
        for key in _find_keys(argument) & _CODE_KEYS:
            raise InvalidSpec(f"spec.engine.extraArgs: {key} is refused: {_CODE}")


def check_environment(engine: EngineSpec) -> None:
    """InvalidSpec where a variable sets what is Lull's."""
    for variable in engine.env:
        why = OWNED_VARIABLES.get(variable.name) or next(
            (why for prefix, why in OWNED_PREFIXES.items() if variable.name.startswith(prefix)), None
        )
        if why is not None:
            raise InvalidSpec(f"spec.engine.env: {variable.name} is refused: {why}")


def _find_owned(argument: str) -> str | None:
    """The flag of ours that an argument would set, in any spelling that vLLM's parser takes for it."""
    # `--flag.key` is one key of a flag that takes JSON, `--flag.key+` adds to a list in it.
    flag, _, key = argument.partition("=")[0].removesuffix("+").partition(".")
    if not flag.startswith("--"):
        return _find_owned_short(flag, key)
    # vLLM reads underscores as hyphens, in the flag alone.
    return next(
        (owned for spelling in _positives(flag.replace("_", "-")) if (owned := _match(spelling, key)) is not None), None
    )


def _find_owned_short(flag: str, key: str) -> str | None:
    # argparse completes abbreviations (-t is -tp) and takes the value of a single letter at once (-n2).
    for short, owned in _SHORT_FLAGS.items():
        is_abbreviated = len(flag) > 1 and short.startswith(flag)
        has_value = len(short) == 2 and flag.startswith(short)
        if is_abbreviated or has_value or (owned.endswith("-") and flag.startswith(short)):
            return owned if owned.endswith("-") else _match(owned, key)
    return None


def _positives(flag: str) -> tuple[str, ...]:
    """A flag, and the flag that it switches off where it is the negative of one."""
    if flag.startswith("--no-"):
        return flag, *_positives(f"--{flag.removeprefix('--no-')}")
    if flag.startswith("--disable-"):
        return flag, f"--enable-{flag.removeprefix('--disable-')}"
    return (flag,)


def _match(flag: str, key: str) -> str | None:
    if flag in _FREE_FLAGS:
        return None
    for owned in OWNED_FLAGS:
        name, _, owned_key = owned.partition(".")
        is_family = name.endswith("-") and flag.startswith(name)
        # argparse completes an abbreviation, and a bare `--` would turn what follows into positionals.
        if not is_family and not name.startswith(flag):
            continue
        # Nested keys of a key of ours are ours; other keys of a JSON flag are the user's, where we own but some.
        if owned_key == key.partition(".")[0] or (owned_key == "" and not _is_shared(owned)):
            return owned
    return None


def _is_shared(owned: str) -> bool:
    """Whether users may set further keys of a JSON flag whose value as a whole is refused."""
    return any(other.startswith(f"{owned}.") for other in OWNED_FLAGS)


def _find_keys(argument: str) -> set[str]:
    """Every key in an argument that is JSON, or whose value is."""
    text = argument[argument.find("{") :] if "{" in argument else ""
    try:
        waiting, keys = [json.loads(text)], set[str]()
    except ValueError:
        return set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            keys |= value.keys()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return keys
