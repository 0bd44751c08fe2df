"""`spec` of an LLMDeployment. Each field's description is what `kubectl explain` prints."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum, unique
from typing import Annotated, Final, Literal

from pydantic import Field

from lull.api.adapters import AdaptersSpec
from lull.api.base import LIST_ATOMIC, LIST_SET, ApiModel, CountOrPercent, Duration, Quantity, Rule, ServedName
from lull.api.compute import MAX_PER_NODE, AcceleratorSpec, ParallelismSpec, ResourcesSpec, Vendor
from lull.api.engine import CompileCache, EngineSpec
from lull.api.model import CacheType, ModelSpec, Task
from lull.api.placement import PlacementSpec, PodTemplateSpec
from lull.api.quantities import DURATION_PATTERN, parse_duration, parse_quantity
from lull.api.requests import RequestsSpec, RouteSpec
from lull.api.scaling import ScalingSpec, SloSpec

ENGINE_IMAGES: Final = {
    Vendor.NVIDIA: "vllm/vllm-openai:v0.33.0",
    Vendor.AMD: "vllm/vllm-openai-rocm:v0.33.0",
    Vendor.TPU: "vllm/vllm-tpu:v0.33.0",
    Vendor.NEURON: "public.ecr.aws/neuron/pytorch-inference-vllm-neuronx:0.33.0",
    Vendor.CPU: "vllm/vllm-openai-cpu:v0.33.0",
}
"""Image of `vllm serve` by vendor, where spec.engine.image says nothing."""

_SLEEPERS: Final = frozenset({Vendor.NVIDIA, Vendor.AMD, Vendor.CPU})
"""Vendors whose vLLM has sleep mode."""


@unique
class WhenFull(StrEnum):
    IN_PLACE = "InPlace"
    WAIT = "Wait"


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
        Rule(
            "!(self.maxSurge == 0 || self.maxSurge == '0%') || !(self.maxUnavailable == 0 || self.maxUnavailable == '0%')",
            lambda rollout: rollout.max_surge not in {0, "0%"} or rollout.max_unavailable not in {0, "0%"},
            "maxSurge and maxUnavailable must not both be 0: no pod could be replaced",
        ),
    )

    max_surge: Annotated[
        CountOrPercent,
        Field(
            description=(
                "Replicas, as a number or a percentage, that may exist on top of those asked for while pods are "
                "replaced; each needs accelerators of its own. Immediate."
            )
        ),
    ] = 1
    max_unavailable: Annotated[
        CountOrPercent,
        Field(
            description=(
                "Replicas, as a number or a percentage, that may be missing while pods are replaced. Immediate."
            )
        ),
    ] = 0
    when_full: Annotated[
        WhenFull,
        Field(
            description=(
                "What to do when a surge replica finds no free accelerator. InPlace: replace one replica after the "
                "other on the accelerators that it has. Wait: for accelerators. Immediate."
            )
        ),
    ] = WhenFull.IN_PLACE
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
            "self.accelerator.vendor == 'Nvidia' || !has(self.engine.image) "
            "|| !self.engine.image.startsWith('vllm/vllm-openai:')",
            lambda spec: spec.accelerator.vendor is Vendor.NVIDIA or not _needs_nvidia(spec.engine.image),
            "vllm/vllm-openai needs an Nvidia GPU: leave engine.image out, or set it to an image of the vendor",
        ),
        Rule(
            "self.accelerator.vendor != 'Cpu' || self.placement.pools.all(pool, !has(pool.product))",
            lambda spec: (
                spec.accelerator.vendor is not Vendor.CPU or all(pool.product is None for pool in spec.placement.pools)
            ),
            "a pool's product names an accelerator: leave it out where accelerator.vendor is Cpu",
        ),
        Rule(
            "self.parallelism.tensor * self.parallelism.pipeline * self.parallelism.data "
            "% self.accelerator.nodesPerReplica == 0",
            lambda spec: spec.parallelism.accelerators % spec.accelerator.nodes_per_replica == 0,
            "parallelism.tensor x pipeline x data must be a multiple of accelerator.nodesPerReplica",
        ),
        Rule(
            "self.parallelism.tensor * self.parallelism.pipeline * self.parallelism.data "
            f"<= {MAX_PER_NODE} * self.accelerator.nodesPerReplica",
            lambda spec: spec.parallelism.accelerators <= MAX_PER_NODE * spec.accelerator.nodes_per_replica,
            f"no node has more than {MAX_PER_NODE} accelerators: raise accelerator.nodesPerReplica or lower parallelism",
        ),
        Rule(
            "!self.parallelism.expert || self.parallelism.tensor * self.parallelism.data > 1",
            lambda spec: not spec.parallelism.expert or spec.parallelism.tensor * spec.parallelism.data > 1,
            "parallelism.expert needs parallelism.tensor or parallelism.data above 1 to spread experts over",
        ),
        Rule(
            "self.parallelism.data == 1 || self.accelerator.nodesPerReplica <= 2",
            lambda spec: spec.parallelism.data == 1 or spec.accelerator.nodes_per_replica <= 2,
            "parallelism.data spans at most 2 nodes per replica",
        ),
        Rule(
            "self.engine.compileCache == 'Ephemeral' || self.model.cache.type != 'Ephemeral'",
            lambda spec: (
                spec.engine.compile_cache is CompileCache.EPHEMERAL or spec.model.cache.type is not CacheType.EPHEMERAL
            ),
            "engine.compileCache ModelCache needs a model.cache that outlives the pod: set model.cache.type",
        ),
        Rule(
            "!has(self.engine.kvOffload) || !has(self.resources.memory) "
            "|| quantity(self.resources.memory).isGreaterThan(quantity(self.engine.kvOffload.cpu))",
            lambda spec: (
                spec.engine.kv_offload is None
                or spec.resources.memory is None
                or parse_quantity(spec.resources.memory) > parse_quantity(spec.engine.kv_offload.cpu)
            ),
            "resources.memory must be greater than engine.kvOffload.cpu, which counts towards it",
        ),
        Rule(
            "self.model.task == 'Generate' || !has(self.engine.speculative)",
            lambda spec: spec.model.task is Task.GENERATE or spec.engine.speculative is None,
            "engine.speculative guesses tokens of an answer: it goes with model.task Generate only",
        ),
        Rule(
            "!has(self.adapters) || self.adapters.items.all(adapter, !(adapter.name in self.model.aliases) "
            "&& (!has(self.model.name) || adapter.name != self.model.name))",
            lambda spec: (
                spec.adapters is None
                or not {adapter.name for adapter in spec.adapters.items} & {spec.model.name, *spec.model.aliases}
            ),
            "an adapter must not have the model's name or one of its aliases",
        ),
        Rule(
            "self.placement.pools.exists(pool, !has(pool.maxReplicas)) "
            "|| self.placement.pools.map(pool, pool.maxReplicas).sum() >= self.scaling.minReplicas",
            lambda spec: (
                any(pool.max_replicas is None for pool in spec.placement.pools)
                or sum(pool.max_replicas or 0 for pool in spec.placement.pools) >= spec.scaling.min_replicas
            ),
            "the pools' maxReplicas together must not be less than scaling.minReplicas",
        ),
        Rule(
            "!has(self.scaling.sleep) || self.accelerator.vendor in ['Nvidia', 'Amd', 'Cpu']",
            lambda spec: spec.scaling.sleep is None or spec.accelerator.vendor in _SLEEPERS,
            "scaling.sleep is vLLM's for GPUs: leave it out, or set accelerator.vendor to Nvidia or Amd "
            "(Cpu sleeps as well, and frees nothing)",
        ),
        Rule(
            "!has(self.scaling.sleep) || self.accelerator.nodesPerReplica == 1",
            lambda spec: spec.scaling.sleep is None or spec.accelerator.nodes_per_replica == 1,
            "scaling.sleep needs a replica to be one pod: leave it out, or set accelerator.nodesPerReplica to 1",
        ),
        Rule(
            "!has(self.scaling.sleep) || self.scaling.sleep.level == 1 || !has(self.adapters)",
            lambda spec: spec.scaling.sleep is None or spec.scaling.sleep.level == 1 or spec.adapters is None,
            "scaling.sleep.level 2 would drop the adapters with the weights: set it to 1",
        ),
        Rule(
            "self.fallback.all(name, !(name in self.model.aliases) && (!has(self.model.name) || name != self.model.name) "
            "&& (!has(self.adapters) || self.adapters.items.all(adapter, adapter.name != name)))",
            lambda spec: not set(spec.fallback) & spec.own_names,
            "fallback must name other models, none of this one's names, aliases and adapters",
        ),
        Rule(
            "self.routes.all(route, !(route.model in self.model.aliases) "
            "&& (!has(self.model.name) || route.model != self.model.name) "
            "&& (!has(self.adapters) || self.adapters.items.all(adapter, adapter.name != route.model)))",
            lambda spec: not {route.model for route in spec.routes} & spec.own_names,
            "routes must name other models, none of this one's names, aliases and adapters",
        ),
        Rule(
            "self.routes.map(route, route.maxPromptTokens).isSorted() && self.routes.all(route, "
            "self.routes.exists_one(other, other.maxPromptTokens == route.maxPromptTokens))",
            lambda spec: all(
                one.max_prompt_tokens < other.max_prompt_tokens
                for one, other in zip(spec.routes, spec.routes[1:], strict=False)
            ),
            "routes must come with rising maxPromptTokens: the first that a prompt fits is taken",
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
    slo: Annotated[
        SloSpec,
        Field(
            description=(
                "How quick answers are to be. Gateways count which are (lull_gateway_slo_requests_total), and where "
                "scaling.target.inFlight says nothing, Lull learns from that how many requests a replica carries "
                "within it, and scales by that. Immediate."
            )
        ),
    ] = SloSpec()
    adapters: Annotated[
        AdaptersSpec | None,
        Field(
            description=(
                "LoRA adapters served with the model. Default: none; the first time that this is set the pods restart."
            )
        ),
    ] = None
    queue: Annotated[QueueSpec, Field(description="How requests wait at the gateway.")] = QueueSpec()
    requests: Annotated[RequestsSpec, Field(description="How the gateway treats requests once they are let go.")] = (
        RequestsSpec()
    )
    fallback: Annotated[
        list[ServedName],
        Field(
            max_length=4,
            description=(
                "Models, by names of GET /v1/models, that answer in this one's place while it has no ready replica, "
                "where all its replicas stay busy, or where they fail: the first that has room. Requests for adapters "
                "are not among them. Immediate."
            ),
            json_schema_extra=LIST_SET,
        ),
    ] = []
    routes: Annotated[
        list[RouteSpec],
        Field(
            max_length=4,
            description=(
                "Models that short prompts go to first, small model first, while they have room; else this model "
                "has them. With rising maxPromptTokens. Immediate."
            ),
            json_schema_extra=LIST_ATOMIC,
        ),
    ] = []
    rollout: Annotated[RolloutSpec, Field(description="How pods are replaced and stopped.")] = RolloutSpec()
    pod_template: Annotated[PodTemplateSpec, Field(description="What is added to the engine pods.")] = PodTemplateSpec()

    @property
    def accelerators_per_pod(self) -> int:
        """Accelerators that each pod of a replica asks for."""
        return self.parallelism.accelerators // self.accelerator.nodes_per_replica

    @property
    def own_names(self) -> set[str]:
        """Names that the spec claims; the LLMDeployment's own, where it is one, stands elsewhere."""
        adapters = {adapter.name for adapter in self.adapters.items} if self.adapters else set()
        return {*self.model.aliases, *adapters, *([self.model.name] if self.model.name is not None else [])}

    def duplicates(self) -> tuple[str, ...]:
        """Names that stand twice in a list whose items are told apart by name; the API server refuses them too."""
        lists = {
            "spec.placement.pools": [pool.name for pool in self.placement.pools],
            "spec.engine.env": [variable.name for variable in self.engine.env],
            "spec.fallback": self.fallback,
            "spec.adapters.items": [adapter.name for adapter in self.adapters.items] if self.adapters else [],
        }
        return tuple(
            f"{where}: {name!r} stands there {count} times"
            for where, names in lists.items()
            for name, count in Counter(names).items()
            if count > 1
        )


def _needs_nvidia(image: str | None) -> bool:
    return image is not None and image.startswith("vllm/vllm-openai:")
