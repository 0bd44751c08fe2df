"""`spec.placement` and `spec.podTemplate`: on which nodes replicas run, and what is added to their pods."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Annotated, Final, Literal

from pydantic import Field

from lull.api.base import (
    LABEL_KEY_PATTERN,
    LIST_ATOMIC,
    LIST_BY_NAME,
    LIST_SET,
    ApiModel,
    CountOrPercent,
    LabelKey,
    LabelValue,
    ObjectName,
    ProductName,
    Rule,
    are_label_keys,
)


@unique
class CapacityType(StrEnum):
    ANY = "Any"
    SPOT = "Spot"
    ON_DEMAND = "OnDemand"


RESERVED_KEYS: Final = ("lull.dev/", "app.kubernetes.io/", "kubernetes.io/", "leaderworkerset.sigs.k8s.io/")
"""Prefixes of label and annotation keys that Lull and Kubernetes set themselves."""


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

    key: Annotated[LabelKey | None, Field(description="Taint key; absent means every key.")] = None
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
            lambda pool: are_label_keys(pool.node_selector),
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
    product: Annotated[
        ProductName | None,
        Field(
            description=(
                "Product that this pool's nodes must be labelled with. Default: accelerator.product. "
                "A change restarts the pods."
            ),
        ),
    ] = None
    node_selector: Annotated[
        dict[str, LabelValue],
        Field(max_length=16, description="Labels that the pool's nodes must have. A change restarts the pods."),
    ] = {}
    tolerations: Annotated[
        list[Toleration],
        Field(
            max_length=16,
            description="Taints that the pool's pods tolerate. A change restarts the pods.",
            json_schema_extra=LIST_ATOMIC,
        ),
    ] = []
    max_replicas: Annotated[
        int | None,
        Field(ge=1, le=1000, description="Most replicas in this pool. Default: no limit of its own. Immediate."),
    ] = None


class PlacementSpec(ApiModel):
    rules = (
        Rule(
            "self.onDemandBase == 0 || self.onDemandBase == '0%' "
            "|| self.pools.exists(pool, pool.capacityType != 'Spot')",
            lambda placement: (
                placement.on_demand_base in {0, "0%"}
                or any(pool.capacity_type is not CapacityType.SPOT for pool in placement.pools)
            ),
            "onDemandBase needs a pool that is not Spot",
        ),
    )

    on_demand_base: Annotated[
        CountOrPercent,
        Field(
            description=(
                "The first replicas, as a number or a percentage of all, that must not run on spot capacity: they go "
                "to pools that are not Spot before any other. Immediate."
            )
        ),
    ] = 0
    pools: Annotated[
        list[PoolSpec],
        Field(
            min_length=1,
            max_length=8,
            description=(
                "Where replicas may run, filled in this order up to maxReplicas each. Default: one pool of any "
                "capacity. A pool that is taken off the list is emptied."
            ),
            json_schema_extra=LIST_BY_NAME,
        ),
    ] = [PoolSpec(name="default")]


class TopologySpreadConstraint(ApiModel):
    max_skew: Annotated[int, Field(ge=1, le=1000, description="Most replicas that one domain may have over another.")]
    topology_key: Annotated[
        LabelKey, Field(description="Node label that makes domains, such as topology.kubernetes.io/zone.")
    ]
    when_unsatisfiable: Annotated[
        Literal["DoNotSchedule", "ScheduleAnyway"], Field(description="Whether the skew is a rule or a wish.")
    ] = "ScheduleAnyway"


def _user_keys(field: str) -> Rule:
    reserved = " && ".join(f"!key.startsWith('{prefix}')" for prefix in RESERVED_KEYS)

    def holds(metadata: PodMetadata) -> bool:
        keys: dict[str, str] = getattr(metadata, field)
        return are_label_keys(keys) and not any(key.startswith(RESERVED_KEYS) for key in keys)

    return Rule(
        f"self.{field}.all(key, key.size() <= 317 && key.matches('{LABEL_KEY_PATTERN}') && {reserved})",
        holds,
        f"{field} has a key that is no label key or that is reserved: {', '.join(RESERVED_KEYS)}",
    )


class PodMetadata(ApiModel):
    rules = (_user_keys("labels"), _user_keys("annotations"))

    labels: Annotated[
        dict[str, LabelValue],
        Field(max_length=32, description="Labels added to the pods. A change restarts the pods."),
    ] = {}
    annotations: Annotated[
        dict[str, Annotated[str, Field(max_length=4096)]],
        Field(max_length=32, description="Annotations added to the pods. A change restarts the pods."),
    ] = {}


class PodSecurity(ApiModel):
    run_as_user: Annotated[
        int | None,
        Field(
            ge=1,
            le=2_147_483_647,
            description="User of the engine. Default: 2000, which vLLM's images prepare. A change restarts the pods.",
        ),
    ] = None
    run_as_group: Annotated[
        int | None,
        Field(
            ge=0,
            le=2_147_483_647,
            description="Group of the engine. Default: 0, which vLLM's images prepare. A change restarts the pods.",
        ),
    ] = None
    fs_group: Annotated[
        int | None,
        Field(
            ge=0,
            le=2_147_483_647,
            description="Group that volumes are made writable for. Default: 0. A change restarts the pods.",
        ),
    ] = None
    supplemental_groups: Annotated[
        list[Annotated[int, Field(ge=0, le=2_147_483_647)]],
        Field(
            max_length=16,
            description="Further groups, such as that of a device or a share. A change restarts the pods.",
            json_schema_extra=LIST_ATOMIC,
        ),
    ] = []


class PodTemplateSpec(ApiModel):
    metadata: Annotated[PodMetadata, Field(description="Labels and annotations added to the pods.")] = PodMetadata()
    priority_class_name: Annotated[
        ObjectName | None, Field(description="PriorityClass of the pods. A change restarts the pods.")
    ] = None
    runtime_class_name: Annotated[
        ObjectName | None,
        Field(description="RuntimeClass of the pods, such as nvidia. A change restarts the pods."),
    ] = None
    scheduler_name: Annotated[
        ObjectName | None,
        Field(description="Scheduler of the pods. Default: the cluster's. A change restarts the pods."),
    ] = None
    service_account_name: Annotated[
        ObjectName | None,
        Field(
            description=(
                "ServiceAccount of the pods, for clouds that give pods a role by it; its token is not mounted. "
                "Default: default. A change restarts the pods."
            )
        ),
    ] = None
    image_pull_secrets: Annotated[
        list[ObjectName],
        Field(
            max_length=8,
            description="Secrets that open image registries. A change restarts the pods.",
            json_schema_extra=LIST_SET,
        ),
    ] = []
    node_selector: Annotated[
        dict[str, LabelValue],
        Field(max_length=16, description="Labels that nodes of every pool must have. A change restarts the pods."),
    ] = {}
    tolerations: Annotated[
        list[Toleration],
        Field(
            max_length=16,
            description="Taints that the pods of every pool tolerate. A change restarts the pods.",
            json_schema_extra=LIST_ATOMIC,
        ),
    ] = []
    topology_spread_constraints: Annotated[
        list[TopologySpreadConstraint],
        Field(
            max_length=8,
            description=(
                "How replicas spread over zones or nodes. Default: over zones where that costs nothing. "
                "A change restarts the pods."
            ),
            json_schema_extra=LIST_ATOMIC,
        ),
    ] = []
    security_context: Annotated[PodSecurity, Field(description="User and groups of the engine.")] = PodSecurity()

    rules = (
        Rule(
            f"self.nodeSelector.all(key, key.size() <= 317 && key.matches('{LABEL_KEY_PATTERN}'))",
            lambda template: are_label_keys(template.node_selector),
            "nodeSelector has a key that is no label key: [prefix/]name",
        ),
    )
