"""`spec` of an LLMDeployment. Each field's description is what `kubectl explain` prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from lull.api.quantities import DURATION_PATTERN, QUANTITY_PATTERN, parse_duration, parse_quantity

DEFAULT_ENGINE_IMAGE: Final = "vllm/vllm-openai:v0.33.0"

SERVED_NAME_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9._/:-]*[A-Za-z0-9])?$"
SOURCE_PATTERN: Final = (
    r"^(hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._/-]*)?"
    r"|pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[A-Za-z0-9._/-]*)?"
    r"|file:///[A-Za-z0-9._/-]+)$"
)

# As Kubernetes checks labels and taints, so that a wrong one is refused here and not in a child.
LABEL_VALUE_PATTERN: Final = r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"
LABEL_KEY_PATTERN: Final = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"

LabelValue = Annotated[str, Field(pattern=LABEL_VALUE_PATTERN, max_length=63)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32)]
Quantity = Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=32)]
ServedName = Annotated[str, Field(pattern=SERVED_NAME_PATTERN, min_length=1, max_length=128)]


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold between fields: checked by the API server in CEL, and here for files and older CRDs."""

    cel: str
    holds: Callable[[Any], bool]
    message: str


class ApiModel(BaseModel):
    """Base of every API type: frozen, camelCase outside, lenient towards fields of a newer version."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True, extra="ignore", frozen=True
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        if not cls.rules:
            return schema
        return {
            **schema,
            "x-kubernetes-validations": [{"rule": rule.cel, "message": rule.message} for rule in cls.rules],
        }


@unique
class Vendor(StrEnum):
    NVIDIA = "Nvidia"
    CPU = "Cpu"


@unique
class CapacityType(StrEnum):
    ANY = "Any"
    SPOT = "Spot"
    ON_DEMAND = "OnDemand"


class ModelSpec(ApiModel):
    rules = (
        Rule(
            "!self.source.contains('..')",
            lambda model: ".." not in model.source,
            "source must not contain '..'",
        ),
        Rule(
            "!has(self.name) || !(self.name in self.aliases)",
            lambda model: model.name not in model.aliases,
            "aliases must not repeat name",
        ),
        Rule(
            "!has(self.secretName) || self.source.startsWith('hf://')",
            lambda model: model.secret_name is None or model.source.startswith("hf://"),
            "secretName is for hf:// sources; pvc:// and file:// are read without credentials",
        ),
    )

    source: Annotated[
        str,
        Field(
            pattern=SOURCE_PATTERN,
            max_length=512,
            description=(
                "Where the weights come from: hf://org/name[@revision] (a Hugging Face hub), pvc://claim[/path] "
                "(a volume claim in the same namespace) or file:///path (inside the engine image). "
                "A change restarts the pods."
            ),
        ),
    ]
    name: Annotated[
        ServedName | None,
        Field(
            description=(
                'What clients send as "model". Default: the name of the LLMDeployment. A change restarts the pods.'
            )
        ),
    ] = None
    aliases: Annotated[
        list[ServedName],
        Field(
            max_length=16,
            description="Further names under which the same model answers. A change restarts the pods.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = []
    secret_name: Annotated[
        str | None,
        Field(
            max_length=253,
            pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
            description=(
                "Secret in the same namespace whose key `token` opens a gated or private source. "
                "It is mounted by reference; the operator never reads it. A change restarts the pods."
            ),
        ),
    ] = None


class EnvVar(ApiModel):
    name: Annotated[
        str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128, description="Name of the variable.")
    ]
    value: Annotated[str, Field(max_length=4096, description="Its value, taken literally.")] = ""


class EngineSpec(ApiModel):
    rules = (
        Rule(
            "self.env.all(variable, !variable.name.startsWith('LD_') && !variable.name.startsWith('PYTHON'))",
            lambda engine: not any(variable.name.startswith(("LD_", "PYTHON")) for variable in engine.env),
            "env must not set LD_* or PYTHON*: they load code into the engine",
        ),
    )

    image: Annotated[
        str,
        Field(
            min_length=1,
            max_length=512,
            description=(
                "Container image that runs `vllm serve`. The default is written into the object when it is created, "
                "so a newer Lull does not change it. A change restarts the pods."
            ),
        ),
    ] = DEFAULT_ENGINE_IMAGE
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
    enforce_eager: Annotated[
        bool,
        Field(
            description=(
                "Skip compilation and graph capture (--enforce-eager): a quicker start for slower tokens. "
                "A change restarts the pods."
            )
        ),
    ] = False
    extra_args: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1024)]],
        Field(
            max_length=64,
            description=(
                "Further arguments of `vllm serve`, one per item, passed without a shell. Flags that Lull sets itself "
                "are refused by name. A change restarts the pods."
            ),
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
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = []


class ParallelismSpec(ApiModel):
    tensor: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description=(
                "Tensor parallel degree (--tensor-parallel-size): accelerators that one replica spans. "
                "A change restarts the pods."
            ),
        ),
    ] = 1


class AcceleratorSpec(ApiModel):
    rules = (
        Rule(
            "self.vendor != 'Cpu' || !has(self.product)",
            lambda accelerator: accelerator.vendor is not Vendor.CPU or accelerator.product is None,
            "product names a GPU: leave it out where vendor is Cpu",
        ),
        Rule(
            "self.vendor != 'Cpu' || !has(self.resourceName)",
            lambda accelerator: accelerator.vendor is not Vendor.CPU or accelerator.resource_name is None,
            "resourceName asks for devices: leave it out where vendor is Cpu",
        ),
    )

    vendor: Annotated[
        Vendor,
        Field(description="Maker of the accelerator; Cpu asks for none. A change restarts the pods."),
    ] = Vendor.NVIDIA
    product: Annotated[
        str | None,
        Field(
            max_length=63,
            pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$",
            description=(
                "Product that the node must be labelled with (nvidia.com/gpu.product), for example NVIDIA-L4. "
                "Default: any. A change restarts the pods."
            ),
        ),
    ] = None
    resource_name: Annotated[
        str | None,
        Field(
            max_length=253,
            pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
            description=(
                "Extended resource that a pod asks for, one per tensor parallel rank. Default: nvidia.com/gpu for "
                "Nvidia, none for Cpu. A change restarts the pods."
            ),
        ),
    ] = None


class ResourcesSpec(ApiModel):
    rules = (
        Rule(
            "!has(self.memory) || quantity(self.memory).isGreaterThan(quantity(self.sharedMemory))",
            lambda resources: (
                resources.memory is None or parse_quantity(resources.memory) > parse_quantity(resources.shared_memory)
            ),
            "memory must be greater than sharedMemory, which counts towards it",
        ),
    )

    cpu: Annotated[
        Quantity | None,
        Field(description="CPU that the engine container asks for. Default: none asked. A change restarts the pods."),
    ] = None
    memory: Annotated[
        Quantity | None,
        Field(
            description=(
                "Memory of the engine container, as request and limit. Default: none set. A change restarts the pods."
            )
        ),
    ] = None
    shared_memory: Annotated[
        Quantity,
        Field(
            description=(
                "Size of /dev/shm, a memory volume that counts towards memory; tensor parallel ranks talk through it. "
                "A change restarts the pods."
            )
        ),
    ] = "2Gi"


class Toleration(ApiModel):
    rules = (
        Rule(
            "self.operator != 'Exists' || !has(self.value)",
            lambda toleration: toleration.operator != "Exists" or toleration.value is None,
            "value goes with operator Equal only",
        ),
        Rule(
            "self.operator != 'Equal' || has(self.key)",
            lambda toleration: toleration.operator != "Equal" or toleration.key is not None,
            "operator Equal needs a key",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
            "tolerationSeconds goes with effect NoExecute only",
        ),
    )

    key: Annotated[
        str | None,
        Field(max_length=317, pattern=LABEL_KEY_PATTERN, description="Taint key; absent means every key."),
    ] = None
    operator: Annotated[
        Literal["Exists", "Equal"], Field(description="Whether the key must exist or equal the value.")
    ] = "Equal"
    value: Annotated[LabelValue | None, Field(description="Taint value for Equal.")] = None
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        Field(description="Taint effect; absent means every effect."),
    ] = None
    toleration_seconds: Annotated[
        int | None, Field(ge=0, le=86400, description="Seconds that a NoExecute taint is tolerated.")
    ] = None


class PoolSpec(ApiModel):
    rules = (
        Rule(
            f"self.nodeSelector.all(key, key.size() <= 317 && key.matches('{LABEL_KEY_PATTERN}'))",
            lambda pool: all(len(key) <= 317 and re.match(LABEL_KEY_PATTERN, key) for key in pool.node_selector),
            "nodeSelector has a key that is no label key: [prefix/]name",
        ),
    )

    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
            min_length=1,
            max_length=20,
            description="Name of the pool, part of the names of its pods.",
        ),
    ]
    capacity_type: Annotated[
        CapacityType,
        Field(description="Capacity that the pool's nodes must be: Spot, OnDemand or Any. A change restarts the pods."),
    ] = CapacityType.ANY
    node_selector: Annotated[
        dict[str, LabelValue],
        Field(max_length=16, description="Labels that the pool's nodes must have. A change restarts the pods."),
    ] = {}
    tolerations: Annotated[
        list[Toleration],
        Field(max_length=16, description="Taints that the pool's pods tolerate. A change restarts the pods."),
    ] = []


class PlacementSpec(ApiModel):
    pools: Annotated[
        list[PoolSpec],
        Field(
            min_length=1,
            max_length=1,
            description="Where replicas may run. Default: one pool of any capacity.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = [PoolSpec(name="default")]


class TargetSpec(ApiModel):
    queue_length: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description=(
                "Requests per replica that may wait (held at the gateway, or queued in the engines) on top of the "
                "inFlight that it works on; more add a replica. Immediate."
            ),
        ),
    ] = 4
    in_flight: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000,
            description=(
                "Requests in flight per replica. Default: four fifths of engine.maxNumSeqs, or 32 where that is not "
                "set. Immediate."
            ),
        ),
    ] = None


class ScaleUpRules(ApiModel):
    stabilization_window_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=3600,
            description="For how long more replicas must be recommended before they are added, in seconds. Immediate.",
        ),
    ] = 0


class ScaleDownRules(ApiModel):
    stabilization_window_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=3600,
            description="For how long fewer replicas must be recommended before they go, in seconds. Immediate.",
        ),
    ] = 300


class BehaviorSpec(ApiModel):
    scale_up: Annotated[ScaleUpRules, Field(description="Rules for adding replicas.")] = ScaleUpRules()
    scale_down: Annotated[ScaleDownRules, Field(description="Rules for removing replicas.")] = ScaleDownRules()


class ScalingSpec(ApiModel):
    rules = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            lambda scaling: scaling.min_replicas <= scaling.max_replicas,
            "minReplicas must not be greater than maxReplicas",
        ),
    )

    min_replicas: Annotated[
        int, Field(ge=0, le=1000, description="Fewest replicas; 0 lets the model sleep when nobody asks. Immediate.")
    ] = 0
    max_replicas: Annotated[int, Field(ge=1, le=1000, description="Most replicas. Immediate.")] = 8
    target: Annotated[TargetSpec, Field(description="Load that one replica should carry.")] = TargetSpec()
    idle_after: Annotated[
        Duration,
        Field(
            description=(
                "Time without demand after which the last replica goes, counted from the later of the last request "
                "and the pod's becoming ready. Immediate."
            )
        ),
    ] = "10m"
    behavior: Annotated[
        BehaviorSpec, Field(description="How fast recommendations are followed, in the words of autoscaling/v2.")
    ] = BehaviorSpec()


class QueueSpec(ApiModel):
    max_held: Annotated[
        int,
        Field(
            ge=0,
            le=100_000,
            description="Most requests that one gateway holds for this model; further ones get 429. Immediate.",
        ),
    ] = 1000
    max_held_bytes: Annotated[
        Quantity,
        Field(description="Most bytes of held request bodies per gateway; further requests get 429. Immediate."),
    ] = "64Mi"
    hold_for: Annotated[
        Literal["Auto"] | Duration,
        Field(
            description=(
                "Longest hold while no replica is ready; then 503 with Retry-After. Auto: three times the last "
                "measured cold start, at least 2m and at most 30m; 10m before the first. Immediate."
            ),
            json_schema_extra={
                "anyOf": [],
                "type": "string",
                "maxLength": 32,
                "pattern": DURATION_PATTERN.replace("^(", "^(Auto|(").replace(")+$", ")+)$"),
            },
        ),
    ] = "Auto"


class RolloutSpec(ApiModel):
    rules = (
        Rule(
            "duration(self.drain) <= duration('1h')",
            lambda rollout: parse_duration(rollout.drain) <= 3600,
            "drain must not be longer than 1h",
        ),
    )

    drain: Annotated[
        Duration,
        Field(
            description=(
                "Time that requests in flight get to finish when a pod is told to stop; then they are cut. "
                "A change restarts the pods."
            )
        ),
    ] = "60s"


class LLMDeploymentSpec(ApiModel):
    rules = (
        Rule(
            "self.accelerator.vendor != 'Cpu' || !self.engine.image.startsWith('vllm/vllm-openai:')",
            lambda spec: spec.accelerator.vendor is not Vendor.CPU or not _needs_gpu(spec.engine.image),
            "vllm/vllm-openai needs an Nvidia GPU: set engine.image to a CPU build of vLLM",
        ),
    )

    model: Annotated[ModelSpec, Field(description="Which model is served, and under which names.")]
    engine: Annotated[EngineSpec, Field(description="How vLLM runs it.")] = EngineSpec()
    parallelism: Annotated[ParallelismSpec, Field(description="How one replica spreads over accelerators.")] = (
        ParallelismSpec()
    )
    accelerator: Annotated[AcceleratorSpec, Field(description="What one replica computes on.")] = AcceleratorSpec()
    resources: Annotated[ResourcesSpec, Field(description="CPU and memory of one engine pod.")] = ResourcesSpec()
    placement: Annotated[PlacementSpec, Field(description="On which nodes replicas run.")] = PlacementSpec()
    scaling: Annotated[ScalingSpec, Field(description="How many replicas Lull keeps.")] = ScalingSpec()
    replicas: Annotated[
        int | None,
        Field(
            ge=0,
            le=1000,
            description=(
                "A fixed number of replicas, written by a person, an HPA or KEDA through /scale. Where it is set, "
                "Lull does not scale. Immediate."
            ),
        ),
    ] = None
    queue: Annotated[QueueSpec, Field(description="How requests wait at the gateway.")] = QueueSpec()
    rollout: Annotated[RolloutSpec, Field(description="How pods are replaced and stopped.")] = RolloutSpec()


def _needs_gpu(image: str) -> bool:
    return image.startswith("vllm/vllm-openai:")
