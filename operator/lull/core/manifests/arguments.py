"""The engine's command line and environment."""

from __future__ import annotations

from decimal import Decimal
from math import ceil
from typing import TYPE_CHECKING, Final

from lull.api.compute import Vendor
from lull.api.engine import (
    CompileCache,
    Dtype,
    KvCacheDtype,
    LoadFormat,
    SpeculativeMethod,
    StructuredOutputsBackend,
)
from lull.api.llmdeployment import InvalidSpec
from lull.api.model import Task
from lull.api.names import PORT_ENGINE
from lull.api.quantities import parse_duration, parse_quantity
from lull.core.manifests.lastwords import build_logging_environment
from lull.core.manifests.refusals import check_arguments, check_environment
from lull.core.manifests.sidecar import build_adapter_arguments, build_adapter_environment
from lull.core.manifests.sources import MODELS_PATH, find_draft_folder

if TYPE_CHECKING:
    from lull.api.adapters import AdaptersSpec
    from lull.api.compute import ParallelismSpec
    from lull.api.engine import EngineSpec, EnvVar
    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.manifests.sources import Source

HOME: Final = "/home/vllm"
STARTUP_SECONDS: Final = 3600
"""Longest time from the engine's start to its first healthy answer; then the kubelet restarts it."""

_GIB: Final = 1024**3
_OWN_CACHE: Final = f"{HOME}/vllm"
_SHARED_CACHE: Final = f"{MODELS_PATH}/.vllm"

# Both ways of adapting a model leave one alone that was trained for its task.
_TASKS: Final = {
    Task.GENERATE: (),
    Task.EMBED: ("--runner", "pooling", "--convert", "embed"),
    Task.RERANK: ("--runner", "pooling", "--convert", "classify"),
    Task.CLASSIFY: ("--runner", "pooling", "--convert", "classify"),
}
_DTYPES: Final = {Dtype.BFLOAT16: "bfloat16", Dtype.FLOAT16: "float16", Dtype.FLOAT32: "float32"}
_KV_DTYPES: Final = {
    KvCacheDtype.BFLOAT16: "bfloat16",
    KvCacheDtype.FLOAT16: "float16",
    KvCacheDtype.FP8: "fp8",
    KvCacheDtype.FP8_E4M3: "fp8_e4m3",
    KvCacheDtype.FP8_E5M2: "fp8_e5m2",
    KvCacheDtype.NVFP4: "nvfp4",
}
_LOAD_FORMATS: Final = {
    LoadFormat.SAFETENSORS: "safetensors",
    LoadFormat.PT: "pt",
    LoadFormat.NP_CACHE: "npcache",
    LoadFormat.DUMMY: "dummy",
    LoadFormat.MISTRAL: "mistral",
    LoadFormat.SHARDED_STATE: "sharded_state",
    LoadFormat.RUNAI_STREAMER: "runai_streamer",
}
_SPECULATIVE_METHODS: Final = {
    SpeculativeMethod.NGRAM: "ngram",
    SpeculativeMethod.SUFFIX: "suffix",
    SpeculativeMethod.DRAFT: "draft_model",
    SpeculativeMethod.EAGLE: "eagle",
    SpeculativeMethod.EAGLE3: "eagle3",
    SpeculativeMethod.MTP: "mtp",
}
_BACKENDS: Final = {
    StructuredOutputsBackend.XGRAMMAR: "xgrammar",
    StructuredOutputsBackend.GUIDANCE: "guidance",
    StructuredOutputsBackend.OUTLINES: "outlines",
}


def build_arguments(deployment: LLMDeployment, source: Source) -> list[str]:
    """Arguments of `vllm serve`, which is the image's entry point.

    What the spec leaves to vLLM is not said, so that vLLM's own default for the model holds.
    """
    spec = deployment.spec
    check_arguments(spec.engine.extra_args)
    return [
        source.path,
        "--served-model-name",
        *deployment.served_names,
        "--host",
        "0.0.0.0",
        "--port",
        str(PORT_ENGINE),
        *_TASKS[spec.model.task],
        *(["--trust-remote-code"] if spec.model.trust_remote_code else []),
        *_build_parallelism(spec.parallelism, spec.adapters),
        *_build_engine(spec.engine),
        *_build_speculation(spec),
        *_build_offload(spec),
        *build_adapter_arguments(deployment),
        # vLLM for CPU has no such mode, and sleeps all the same.
        *(
            ["--enable-sleep-mode"]
            if spec.scaling.sleep is not None and spec.accelerator.vendor is not Vendor.CPU
            else []
        ),
        # The gateway learns from it how much of a prompt an engine had in its cache.
        *(
            ["--enable-prompt-tokens-details"]
            if spec.model.task is Task.GENERATE and spec.engine.prefix_caching
            else []
        ),
        "--shutdown-timeout",
        str(ceil(parse_duration(spec.rollout.drain))),
        *(_literal(argument) for argument in spec.engine.extra_args),
    ]


def build_environment(deployment: LLMDeployment) -> list[Manifest]:
    """Environment of the engine: caches in writable places, no word to outside, then the user's own."""
    engine = deployment.spec.engine
    check_environment(engine)
    cache = _SHARED_CACHE if engine.compile_cache is CompileCache.MODEL_CACHE else _OWN_CACHE
    return [
        {"name": "HOME", "value": HOME},
        # torch names a cache after its user, and the image may not know user 2000.
        {"name": "USER", "value": "vllm"},
        {"name": "HF_HOME", "value": f"{HOME}/huggingface"},
        # Weights are in the pod before the engine starts: a hub that is down must not matter to it.
        {"name": "HF_HUB_OFFLINE", "value": "1"},
        {"name": "VLLM_CACHE_ROOT", "value": cache},
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
        # vLLM would give up on its own engine core after ten minutes; the startup probe is the one limit.
        {"name": "VLLM_ENGINE_READY_TIMEOUT_S", "value": str(STARTUP_SECONDS)},
        *build_logging_environment(engine),
        *build_adapter_environment(deployment),
        # Opens /sleep and /wake_up, and with them everything else that no client may reach.
        *([{"name": "VLLM_SERVER_DEV_MODE", "value": "1"}] if deployment.spec.scaling.sleep is not None else []),
        {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *(_build_variable(variable) for variable in engine.env),
    ]


def writes_models(engine: EngineSpec) -> bool:
    """Whether the engine writes into the volume of the weights; otherwise it is read-only to it."""
    # vLLM keeps the arrays that it makes of a PyTorch checkpoint beside it.
    return engine.compile_cache is CompileCache.MODEL_CACHE or engine.load_format is LoadFormat.NP_CACHE


def _build_parallelism(parallelism: ParallelismSpec, adapters: AdaptersSpec | None) -> list[str]:
    return [
        "--tensor-parallel-size",
        str(parallelism.tensor),
        *(["--pipeline-parallel-size", str(parallelism.pipeline)] if parallelism.pipeline > 1 else []),
        *(["--data-parallel-size", str(parallelism.data)] if parallelism.data > 1 else []),
        # vLLM would start an API server for each rank, and refuses to load adapters then.
        *(["--api-server-count", "1"] if parallelism.data > 1 and adapters is not None else []),
        *(["--enable-expert-parallel"] if parallelism.expert else []),
    ]


def _build_engine(engine: EngineSpec) -> list[str]:
    return [
        *_option("--dtype", _DTYPES.get(engine.dtype)),
        *_option("--quantization", engine.quantization if engine.quantization != "Auto" else None),
        *_option("--kv-cache-dtype", _KV_DTYPES.get(engine.kv_cache_dtype)),
        *_option("--load-format", _LOAD_FORMATS.get(engine.load_format)),
        *_option("--max-model-len", engine.max_model_len),
        *_option("--max-num-seqs", engine.max_num_seqs),
        *_option("--max-num-batched-tokens", engine.max_num_batched_tokens),
        *_option("--gpu-memory-utilization", engine.gpu_memory_utilization),
        # On is vLLM's default for each model that can; said aloud, it would be forced on those that cannot.
        *(["--no-enable-prefix-caching"] if not engine.prefix_caching else []),
        *(["--enforce-eager"] if engine.enforce_eager else []),
        *_option("--attention-backend", engine.attention_backend),
        # As a key of its own, it goes together with further keys that a user sets.
        *_option("--structured-outputs-config.backend", _BACKENDS.get(engine.structured_outputs_backend)),
    ]


def _build_speculation(spec: LLMDeploymentSpec) -> list[str]:
    speculative = spec.engine.speculative
    if speculative is None:
        return []
    return [
        "--speculative-config.method",
        _SPECULATIVE_METHODS[speculative.method],
        *_option("--speculative-config.model", find_draft_folder(spec)),
        "--speculative-config.num_speculative_tokens",
        str(speculative.tokens),
    ]


def _build_offload(spec: LLMDeploymentSpec) -> list[str]:
    if spec.engine.kv_offload is None:
        return []
    # vLLM counts for each of its data parallel engines, and over all tensor parallel ranks of one.
    size = (parse_quantity(spec.engine.kv_offload.cpu) / _GIB / spec.parallelism.data).quantize(Decimal("0.001"))
    if not size:
        raise InvalidSpec("spec.engine.kvOffload.cpu is less than a megabyte per engine: write for example 32Gi")
    return ["--kv-offloading-size", f"{size.normalize():f}"]


def _build_variable(variable: EnvVar) -> Manifest:
    if variable.value_from is None:
        return {"name": variable.name, "value": _literal(variable.value)}
    return {"name": variable.name, "valueFrom": variable.value_from.model_dump(mode="json")}


def _option(flag: str, value: str | int | None) -> list[str]:
    return [] if value is None else [flag, str(value)]


def _literal(text: str) -> str:
    """Text that Kubernetes, which expands $(NAME), gives to the process as it was written."""
    return text.replace("$", "$$")
