"""`spec.engine`: how vLLM runs the model."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Annotated, Any

from pydantic import Field

from lull.api.base import LIST_ATOMIC, LIST_BY_NAME, ApiModel, FetchedSource, ObjectName, Quantity, Rule


@unique
class Dtype(StrEnum):
    AUTO = "Auto"
    BFLOAT16 = "Bfloat16"
    FLOAT16 = "Float16"
    FLOAT32 = "Float32"


@unique
class KvCacheDtype(StrEnum):
    AUTO = "Auto"
    BFLOAT16 = "Bfloat16"
    FLOAT16 = "Float16"
    FP8 = "Fp8"
    FP8_E4M3 = "Fp8E4m3"
    FP8_E5M2 = "Fp8E5m2"
    NVFP4 = "Nvfp4"


@unique
class LoadFormat(StrEnum):
    AUTO = "Auto"
    SAFETENSORS = "Safetensors"
    PT = "Pt"
    NP_CACHE = "NpCache"
    DUMMY = "Dummy"
    MISTRAL = "Mistral"
    SHARDED_STATE = "ShardedState"
    RUNAI_STREAMER = "RunaiStreamer"


@unique
class SpeculativeMethod(StrEnum):
    NGRAM = "Ngram"
    SUFFIX = "Suffix"
    DRAFT = "Draft"
    EAGLE = "Eagle"
    EAGLE3 = "Eagle3"
    MTP = "Mtp"


@unique
class CompileCache(StrEnum):
    EPHEMERAL = "Ephemeral"
    MODEL_CACHE = "ModelCache"


@unique
class StructuredOutputsBackend(StrEnum):
    AUTO = "Auto"
    XGRAMMAR = "Xgrammar"
    GUIDANCE = "Guidance"
    OUTLINES = "Outlines"


_WITH_MODEL = frozenset({SpeculativeMethod.DRAFT, SpeculativeMethod.EAGLE, SpeculativeMethod.EAGLE3})


class SpeculativeSpec(ApiModel):
    rules = (
        Rule(
            "(self.method in ['Draft', 'Eagle', 'Eagle3']) == has(self.model)",
            lambda speculative: (speculative.method in _WITH_MODEL) == (speculative.model is not None),
            "methods Draft, Eagle and Eagle3 need model; the others work without one",
        ),
    )

    method: Annotated[
        SpeculativeMethod,
        Field(
            description=(
                "How tokens are guessed: Ngram and Suffix look into the text itself, Draft, Eagle and Eagle3 ask a "
                "small model, Mtp the model's own extra layers. A change restarts the pods."
            )
        ),
    ]
    model: Annotated[
        FetchedSource | None,
        Field(
            description=(
                "Source of the small model for Draft, Eagle or Eagle3: hf://, s3://, gs:// or oci://, opened by the "
                "same Secret as the model. A change restarts the pods."
            )
        ),
    ] = None
    tokens: Annotated[
        int,
        Field(ge=1, le=32, description="Tokens that are guessed ahead of each step. A change restarts the pods."),
    ] = 3


class KvOffloadSpec(ApiModel):
    cpu: Annotated[
        Quantity,
        Field(
            description=(
                "Main memory per replica that takes evicted KV cache (--kv-offloading-size), for example 32Gi; it "
                "counts towards resources.memory. A change restarts the pods."
            )
        ),
    ]


class SecretKeyRef(ApiModel):
    name: Annotated[ObjectName, Field(description="Name of the Secret, in the same namespace.")]
    key: Annotated[str, Field(pattern=r"^[-._A-Za-z0-9]+$", max_length=253, description="Key whose value is taken.")]


class EnvSource(ApiModel):
    secret_key_ref: Annotated[SecretKeyRef, Field(description="A key of a Secret.")]


class EnvVar(ApiModel):
    rules = (
        Rule(
            "!has(self.valueFrom) || self.value == ''",
            lambda variable: variable.value_from is None or variable.value == "",
            "value and valueFrom exclude each other",
        ),
    )

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128, description="Name of the variable.")
    ]
    value: Annotated[str, Field(max_length=4096, description="Its value, taken literally.")] = ""
    value_from: Annotated[EnvSource | None, Field(description="Where its value comes from instead.")] = None


def _restarts(text: str) -> Any:  # noqa: ANN401  what pydantic's Field is
    return Field(description=f"{text} A change restarts the pods.")


class EngineSpec(ApiModel):
    rules = (
        Rule(
            "self.env.all(variable, !variable.name.startsWith('LD_') && !variable.name.startsWith('PYTHON'))",
            lambda engine: not any(variable.name.startswith(("LD_", "PYTHON")) for variable in engine.env),
            "env must not set LD_* or PYTHON*: they load code into the engine",
        ),
        Rule(
            "!has(self.maxNumBatchedTokens) || !has(self.maxNumSeqs) || self.maxNumBatchedTokens >= self.maxNumSeqs",
            lambda engine: (
                engine.max_num_batched_tokens is None
                or engine.max_num_seqs is None
                or engine.max_num_batched_tokens >= engine.max_num_seqs
            ),
            "maxNumBatchedTokens must not be less than maxNumSeqs: each request needs a token per step",
        ),
    )

    image: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=512,
            description=(
                "Container image whose entry point is `vllm serve`. Default: the image of the accelerator's vendor "
                "that this version of Lull was tested with; it is kept in status.engine, so a newer Lull does not "
                "change it. A change restarts the pods."
            ),
        ),
    ] = None
    dtype: Annotated[Dtype, _restarts("Type of the weights in memory (--dtype). Auto: the model's own.")] = Dtype.AUTO
    quantization: Annotated[
        str,
        Field(
            pattern=r"^(Auto|[a-z0-9][a-z0-9_-]*)$",
            max_length=64,
            description=(
                "How weights are quantized, in vLLM's words such as awq, gptq, fp8 (--quantization). Auto: what the "
                "model's configuration says. A change restarts the pods."
            ),
        ),
    ] = "Auto"
    kv_cache_dtype: Annotated[
        KvCacheDtype, _restarts("Type of the KV cache (--kv-cache-dtype). Auto: that of the model.")
    ] = KvCacheDtype.AUTO
    load_format: Annotated[
        LoadFormat, _restarts("How weights are read (--load-format). Auto: safetensors where there are any.")
    ] = LoadFormat.AUTO
    max_model_len: Annotated[
        int | None,
        Field(
            ge=1,
            le=10_000_000,
            description=(
                "Longest context in tokens, prompt and answer together (--max-model-len). Default: what the model's "
                "configuration says. A change restarts the pods."
            ),
        ),
    ] = None
    max_num_seqs: Annotated[
        int | None,
        Field(
            ge=1,
            le=65536,
            description=(
                "Most requests that one engine runs at a time (--max-num-seqs); further ones wait inside the engine. "
                "Default: vLLM's own. A change restarts the pods."
            ),
        ),
    ] = None
    max_num_batched_tokens: Annotated[
        int | None,
        Field(
            ge=1,
            le=10_000_000,
            description=(
                "Most tokens that one step computes (--max-num-batched-tokens): more favours throughput, fewer favour "
                "time per output token. Default: vLLM's own. A change restarts the pods."
            ),
        ),
    ] = None
    gpu_memory_utilization: Annotated[
        str | None,
        Field(
            pattern=r"^(0\.[0-9]{1,3}|1(\.0{1,3})?)$",
            max_length=5,
            description=(
                'Share of the accelerator\'s memory that vLLM may take (--gpu-memory-utilization), as text: "0.90". '
                "Default: vLLM's own. A change restarts the pods."
            ),
        ),
    ] = None
    prefix_caching: Annotated[
        bool, _restarts("Keep the KV cache of prompts for requests that begin alike (--enable-prefix-caching).")
    ] = True
    speculative: Annotated[
        SpeculativeSpec | None, Field(description="Guess tokens ahead and verify them. Default: off.")
    ] = None
    kv_offload: Annotated[
        KvOffloadSpec | None, Field(description="Keep evicted KV cache in main memory. Default: off.")
    ] = None
    enforce_eager: Annotated[
        bool,
        _restarts("Skip compilation and graph capture (--enforce-eager): a quicker start for slower tokens."),
    ] = False
    compile_cache: Annotated[
        CompileCache,
        _restarts(
            "Where compiled kernels live. Ephemeral: in the pod, compiled anew by each. ModelCache: in model.cache, "
            "compiled once."
        ),
    ] = CompileCache.EPHEMERAL
    attention_backend: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Z][A-Z0-9_]*$",
            max_length=64,
            description=(
                "Attention kernels, in vLLM's words such as FLASH_ATTN, FLASHINFER, TRITON_ATTN (--attention-backend). "
                "Default: vLLM's choice. A change restarts the pods."
            ),
        ),
    ] = None
    structured_outputs_backend: Annotated[
        StructuredOutputsBackend,
        _restarts("What enforces JSON schemas and grammars on answers. Auto: vLLM's choice for each request."),
    ] = StructuredOutputsBackend.AUTO
    extra_args: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1024)]],
        Field(
            max_length=64,
            description=(
                "Further arguments of `vllm serve`, one per item, passed without a shell. Flags that Lull sets itself "
                "are refused by name. A change restarts the pods."
            ),
            json_schema_extra=LIST_ATOMIC,
        ),
    ] = []
    env: Annotated[
        list[EnvVar],
        Field(
            max_length=64,
            description=(
                "Environment of the engine. Variables that open the engine to outsiders or change what is loaded into "
                "its process are refused by name. A change restarts the pods."
            ),
            json_schema_extra=LIST_BY_NAME,
        ),
    ] = []
