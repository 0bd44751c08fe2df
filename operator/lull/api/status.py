"""`status` of an LLMDeployment: what an observer may rely on."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Annotated, Literal

from pydantic import Field

from lull.api.base import LIST_ATOMIC, LIST_BY_NAME, LIST_SET, ApiModel
from lull.api.compute import Vendor
from lull.api.reasons import ScalingReason


class Condition(ApiModel):
    type: Annotated[str, Field(description="What the condition is about.", max_length=316)]
    status: Annotated[Literal["True", "False", "Unknown"], Field(description="Whether it holds.")]
    reason: Annotated[str, Field(description="Why, as one word of a closed set.", max_length=1024)]
    message: Annotated[str, Field(description="Why, and what to do about it.", max_length=32768)] = ""
    last_transition_time: Annotated[
        str, Field(description="When the status last changed.", json_schema_extra={"format": "date-time"})
    ]
    observed_generation: Annotated[int, Field(description="Generation of the spec that it speaks of.", ge=0)] = 0


class PoolStatus(ApiModel):
    name: Annotated[str, Field(description="Name of the pool.", max_length=63)]
    replicas: Annotated[int, Field(description="Pods that exist.", ge=0)] = 0
    ready_replicas: Annotated[int, Field(description="Pods that are ready.", ge=0)] = 0
    desired_replicas: Annotated[int, Field(description="Pods that are asked for.", ge=0)] = 0


@unique
class AdapterState(StrEnum):
    PENDING = "Pending"
    """No engine is ready yet."""
    FETCHING = "Fetching"
    LOADING = "Loading"
    READY = "Ready"
    """On every ready replica."""
    FAILED = "Failed"


class AdapterStatus(ApiModel):
    name: Annotated[str, Field(description="Name of the adapter.", max_length=128)]
    state: Annotated[AdapterState, Field(description="How far it is on the replica that is furthest behind.")]
    ready_replicas: Annotated[int, Field(description="Ready replicas that have it loaded.", ge=0)] = 0
    message: Annotated[str, Field(description="Why it is not ready, and what to do.", max_length=1024)] = ""


class EngineStatus(ApiModel):
    """The image that was chosen where spec.engine.image says nothing; it stays when Lull is upgraded."""

    vendor: Annotated[Vendor, Field(description="Vendor that the image was chosen for.")]
    image: Annotated[str, Field(description="Image of the engine.", max_length=512)]


class DecisionRecord(ApiModel):
    at: Annotated[str, Field(description="When it was decided.", json_schema_extra={"format": "date-time"})]
    from_replicas: Annotated[int, Field(description="Replicas before.", ge=0)]
    to_replicas: Annotated[int, Field(description="Replicas after.", ge=0)]
    reason: Annotated[ScalingReason, Field(description="Why.")]
    message: Annotated[str, Field(description="The inputs of the decision, in a sentence.", max_length=1024)] = ""


class ColdStart(ApiModel):
    """The last measured start of a first replica, by stage."""

    at: Annotated[str, Field(description="When the pod was created.", json_schema_extra={"format": "date-time"})]
    scheduled: Annotated[str, Field(description="Pod created until bound to a node.", max_length=32)]
    image: Annotated[str, Field(description="Bound until the engine ran, less weights: pulling images.", max_length=32)]
    weights: Annotated[str, Field(description="Time spent fetching weights into the pod.", max_length=32)]
    warm_up: Annotated[str, Field(description="Engine process started until ready.", max_length=32)]
    total: Annotated[str, Field(description="Pod created until ready.", max_length=32)]


class CostStatus(ApiModel):
    """What replicas cost, as text; brought up to date when that changes, and every five minutes while it adds up."""

    currency: Annotated[str, Field(description="Currency of the operator's prices.", max_length=8)]
    per_hour: Annotated[str, Field(description="What the replicas that there are now cost per hour.", max_length=20)]
    per_replica: Annotated[str, Field(description="What one of them costs per hour.", max_length=20)]
    price: Annotated[str, Field(description="Where that price comes from, and of when it is.", max_length=256)] = ""
    month: Annotated[str, Field(description="Calendar month (UTC) that is counted: 2026-11.", max_length=7)]
    this_month: Annotated[str, Field(description="What replicas have cost in it.", max_length=20)]
    since: Annotated[
        str, Field(description="From when it is counted.", max_length=32, json_schema_extra={"format": "date-time"})
    ]
    at: Annotated[
        str, Field(description="Until when it is counted.", max_length=32, json_schema_extra={"format": "date-time"})
    ]


class LearntStatus(ApiModel):
    """What was learnt of a replica; what it is worth keeping over a restart of the operator."""

    at: Annotated[str, Field(description="When this was written.", json_schema_extra={"format": "date-time"})]
    basis: Annotated[
        str, Field(description="Digest of the pods' spec and of spec.slo: it holds for these alone.", max_length=16)
    ]
    capacity: Annotated[
        str, Field(description="Requests per second that a replica carries within spec.slo.", max_length=16)
    ]
    margin: Annotated[
        str, Field(description="Share of what arrives that is kept ready on top, such as 0.25.", max_length=16)
    ]
    peak: Annotated[str, Field(description="Most requests per second of a minute; fades over days.", max_length=16)]
    evidence: Annotated[str, Field(description="Time under load that it was learnt from.", max_length=32)]
    time_to_first_token: Annotated[
        str, Field(description="Best that was seen (90th percentile of a minute); empty: none.", max_length=16)
    ] = ""
    time_per_output_token: Annotated[str, Field(description="Best that was seen, likewise.", max_length=16)] = ""
    whole_answer: Annotated[
        str,
        Field(
            description="Best that was seen of answers that do not stream, likewise, as a share of what spec.slo allows.",
            max_length=16,
        ),
    ] = ""


class LLMDeploymentStatus(ApiModel):
    observed_generation: Annotated[int, Field(description="Generation of the spec that this status speaks of.")] = 0
    replicas: Annotated[int, Field(description="Replicas that exist, ready or not.", ge=0)] = 0
    ready_replicas: Annotated[int, Field(description="Replicas that are ready to serve.", ge=0)] = 0
    asleep_replicas: Annotated[
        int,
        Field(description="Ready replicas that sleep: their pods hold accelerators and take no requests.", ge=0),
    ] = 0
    desired_replicas: Annotated[int, Field(description="Replicas that the last decision asked for.", ge=0)] = 0
    selector: Annotated[
        str, Field(description="Label selector of the engine pods, for /scale and its users.", max_length=1024)
    ] = ""
    summary: Annotated[str, Field(description="Ready of desired replicas, for people.", max_length=32)] = "0/0"
    served_names: Annotated[
        list[str],
        Field(
            description="Names under which the gateway serves this model.",
            max_length=17,
            json_schema_extra=LIST_SET,
        ),
    ] = []
    pools: Annotated[
        list[PoolStatus],
        Field(
            description="Replicas by pool.",
            max_length=16,
            json_schema_extra=LIST_BY_NAME,
        ),
    ] = []
    adapters: Annotated[
        list[AdapterStatus],
        Field(
            description="Adapters, and how far each is.",
            max_length=512,
            json_schema_extra=LIST_BY_NAME,
        ),
    ] = []
    adapters_summary: Annotated[str, Field(description="Ready of all adapters, for people.", max_length=32)] = ""
    engine: Annotated[EngineStatus | None, Field(description="The engine image that Lull chose.")] = None
    accelerator: Annotated[
        str, Field(description="What one replica computes on, for people: 2x NVIDIA-L4.", max_length=128)
    ] = ""
    spot: Annotated[str, Field(description="Replicas on spot capacity, of all, for people.", max_length=32)] = ""
    url: Annotated[str, Field(description="Base URL for OpenAI clients inside the cluster.", max_length=512)] = ""
    cold_start: Annotated[ColdStart | None, Field(description="The last measured cold start.")] = None
    decisions: Annotated[
        list[DecisionRecord],
        Field(
            description="The last ten scaling decisions, newest first.",
            max_length=10,
            json_schema_extra=LIST_ATOMIC,
        ),
    ] = []
    cost: Annotated[
        CostStatus | None, Field(description="What replicas cost; absent where the operator knows no price.")
    ] = None
    learnt: Annotated[LearntStatus | None, Field(description="What was learnt of a replica.")] = None
    wake: Annotated[
        str | None, Field(description="The annotation lull.dev/wake that was followed last.", max_length=64)
    ] = None
    conditions: Annotated[
        list[Condition],
        Field(
            description="What is true of this LLMDeployment, and why.",
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []

    def find_condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)
