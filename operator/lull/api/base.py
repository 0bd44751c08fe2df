"""What every API type is made of: the base class, rules between fields, and the shapes of strings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from lull.api.quantities import DURATION_PATTERN, QUANTITY_PATTERN, parse_duration

SERVED_NAME_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9._/:-]*[A-Za-z0-9])?$"
OBJECT_NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"

_HUB: Final = r"hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._/-]*)?"
_S3: Final = r"s3://[a-z0-9][a-z0-9.-]*[a-z0-9](/[A-Za-z0-9._=+/-]+)?"
_GS: Final = r"gs://[a-z0-9][a-z0-9._-]*[a-z0-9](/[A-Za-z0-9._=+/-]+)?"
_OCI: Final = (
    r"oci://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)+"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_CLAIM: Final = r"pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[A-Za-z0-9._/-]*)?"
_FILE: Final = r"file:///[A-Za-z0-9._/-]+"

SOURCE_PATTERN: Final = rf"^({_HUB}|{_S3}|{_GS}|{_OCI}|{_CLAIM}|{_FILE})$"
FETCHED_SOURCE_PATTERN: Final = rf"^({_HUB}|{_S3}|{_GS}|{_OCI})$"
"""Sources that the fetcher brings into the pod; the others are there already."""

# As Kubernetes checks labels and taints, so that a wrong one is refused here and not in a child.
LABEL_VALUE_PATTERN: Final = r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"
LABEL_KEY_PATTERN: Final = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"

COUNT_OR_PERCENT_PATTERN: Final = r"^([0-9]|[1-9][0-9]|100)%$"

LabelKey = Annotated[str, Field(pattern=LABEL_KEY_PATTERN, max_length=317)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE_PATTERN, max_length=63)]
ObjectName = Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=253)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32)]
TimeZone = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$", max_length=64)]
Quantity = Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=32)]
ServedName = Annotated[str, Field(pattern=SERVED_NAME_PATTERN, min_length=1, max_length=128)]
ProductName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", max_length=63)]
"""An accelerator's product as node labels spell it."""
FetchedSource = Annotated[str, Field(pattern=FETCHED_SOURCE_PATTERN, max_length=512)]
CountOrPercent = Annotated[
    Annotated[int, Field(ge=0, le=1000)] | Annotated[str, Field(pattern=COUNT_OR_PERCENT_PATTERN, max_length=4)],
    Field(
        json_schema_extra={
            "anyOf": [],
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "maximum": 1000,
            "maxLength": 4,
            "pattern": COUNT_OR_PERCENT_PATTERN,
        }
    ),
]
"""A number of replicas, or a share of them such as `25%`."""

LIST_SET: Final = {"x-kubernetes-list-type": "set"}
LIST_ATOMIC: Final = {"x-kubernetes-list-type": "atomic"}
LIST_BY_NAME: Final = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold between fields: checked by the API server in CEL, and here for files and older CRDs."""

    cel: str
    holds: Callable[[Any], bool]
    message: str


def bound_duration(name: str, least: str, most: str, *, path: str = "", optional: bool = False) -> Rule:
    """The rule that a duration is between two others; `path` is how users know the field, if not by its own name."""
    field = to_camel(name)
    within = f"duration(self.{field}) >= duration('{least}') && duration(self.{field}) <= duration('{most}')"

    def holds(model: ApiModel) -> bool:
        text: str | None = getattr(model, name)
        return text is None or parse_duration(least) <= parse_duration(text) <= parse_duration(most)

    return Rule(
        f"(!has(self.{field}) || ({within}))" if optional else within,
        holds,
        f"{path or field} must be between {least} and {most}",
    )


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


def is_fetched(source: str) -> bool:
    """Whether the fetcher brings a source into the pod, or it is there already."""
    return not source.startswith(("pvc://", "file://"))


def resolve_count(value: int | str, total: int, *, round_up: bool) -> int:
    """Replicas that a count or a percentage of `total` stands for."""
    if isinstance(value, int):
        return value
    share = int(value.removesuffix("%")) * total
    return -(-share // 100) if round_up else share // 100


def are_label_keys(labels: dict[str, str]) -> bool:
    """Whether every key is one that Kubernetes takes for a label."""
    return all(len(key) <= 317 and re.match(LABEL_KEY_PATTERN, key) for key in labels)
