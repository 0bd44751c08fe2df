from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args

import pytest
from pydantic import Field

from lull.api.base import ApiModel, resolve_count
from lull.api.llmdeployment import ADAPTER_NAME_RULE, FALLBACK_NAME_RULE, InvalidSpec, parse_llmdeployment
from lull.api.names import NAME_RULE
from lull.api.schema import build_crd, build_structural
from lull.api.spec import LLMDeploymentSpec
from lull.cli.crd import render_crd
from tests.invalid import BROKEN_RULES, WRONG_FIELDS
from tests.manifests import manifest

SCHEMA = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def _walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, property_ in schema.get("properties", {}).items():
        yield from _walk(property_, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", "[*]")):
        if key in schema:
            yield from _walk(schema[key], path + suffix)


def _models(type_: type[ApiModel]) -> Iterator[type[ApiModel]]:
    """An API type and those that it is made of."""
    yield type_
    for field in type_.model_fields.values():
        for part in _parts(field.annotation):
            yield from _models(part)


def _parts(annotation: Any) -> Iterator[type[ApiModel]]:
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


FIELDS = dict(_walk(SCHEMA))
OURS = {path: field for path, field in FIELDS.items() if path.startswith((".spec", ".status"))}


def test_the_committed_crd_is_what_the_types_give(pytestconfig: pytest.Config) -> None:
    committed = pytestconfig.rootpath / "crds" / "llmdeployments.lull.dev.yaml"

    assert committed.read_text() == render_crd()


def test_every_field_says_what_it_does() -> None:
    silent = [path for path, field in OURS.items() if not path.endswith("]") and not field.get("description")]

    assert silent == []


def test_no_description_is_an_essay() -> None:
    assert [path for path, field in OURS.items() if len(field.get("description", "")) > 400] == []


def test_everything_users_write_has_a_bound() -> None:
    bounds = {"string": "maxLength", "array": "maxItems", "integer": "maximum"}
    unbounded = [
        path
        for path, field in OURS.items()
        if path.startswith(".spec")
        and field.get("type", "string") in bounds
        and not field.keys() & {bounds[field.get("type", "string")], "enum"}
    ]

    assert unbounded == []


def test_maps_have_a_bound() -> None:
    assert [
        path for path, field in OURS.items() if "additionalProperties" in field and "maxProperties" not in field
    ] == []


def test_patterns_are_within_what_go_reads() -> None:
    patterns = [field["pattern"] for field in OURS.values() if "pattern" in field]

    assert patterns
    assert [pattern for pattern in patterns if re.search(r"\(\?|\\[A-Za-z0-9]", pattern)] == []


def test_fits_into_the_annotation_of_a_client_side_apply() -> None:
    assert len(render_crd()) < 200_000


@pytest.mark.parametrize(("wrong", "message"), BROKEN_RULES.values(), ids=BROKEN_RULES)
def test_a_file_is_refused_in_the_words_of_the_api_server(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_llmdeployment({**manifest(), "spec": wrong})

    assert message in str(refused.value)


@pytest.mark.parametrize(("wrong", "field"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_a_wrong_field_is_named_by_its_path(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_llmdeployment({**manifest(), "spec": wrong})

    assert field in str(refused.value)


def test_every_rule_is_tried_by_a_spec_that_breaks_it() -> None:
    messages = {rule.message for type_ in _models(LLMDeploymentSpec) for rule in type_.rules}

    assert {*messages, ADAPTER_NAME_RULE, FALLBACK_NAME_RULE} == {message for _, message in BROKEN_RULES.values()}


def test_every_rule_reaches_the_schema() -> None:
    written = {rule["message"] for field in FIELDS.values() for rule in field.get("x-kubernetes-validations", ())}

    assert written == {NAME_RULE, *(message for _, message in BROKEN_RULES.values())}


def test_a_value_of_two_types_is_refused() -> None:
    class Odd(ApiModel):
        size: Annotated[int | str, Field(description="Either.")]

    with pytest.raises(TypeError, match="of 2 types"):
        build_structural(Odd.model_json_schema())


def test_a_default_that_is_not_made_of_its_fields_defaults_is_refused() -> None:
    class Inner(ApiModel):
        size: int = 1

    class Outer(ApiModel):
        inner: Inner = Inner(size=2)

    with pytest.raises(TypeError, match="differs from the defaults of its fields"):
        build_structural(Outer.model_json_schema())


def test_a_keyword_without_a_place_is_refused() -> None:
    class Odd(ApiModel):
        size: Annotated[int, Field(gt=0, description="Above zero.")]

    with pytest.raises(TypeError, match="exclusiveMinimum"):
        build_structural(Odd.model_json_schema())


def test_a_name_that_stands_twice_is_refused() -> None:
    pools = [{"name": "a"}, {"name": "a", "capacityType": "Spot"}]

    with pytest.raises(InvalidSpec, match=r"spec\.placement\.pools: 'a' stands there 2 times"):
        parse_llmdeployment(manifest(placement={"pools": pools}))


def test_a_count_or_a_percentage_is_taken() -> None:
    written = manifest(rollout={"maxSurge": "25%", "maxUnavailable": 2}, placement={"onDemandBase": "50%"})

    spec = parse_llmdeployment(written).spec

    assert (spec.rollout.max_surge, spec.rollout.max_unavailable) == ("25%", 2)
    assert spec.placement.on_demand_base == "50%"


@pytest.mark.parametrize(
    ("value", "total", "up", "down"), [(3, 10, 3, 3), ("25%", 10, 3, 2), ("0%", 10, 0, 0), ("100%", 7, 7, 7)]
)
def test_percentages_round_as_asked(value: int | str, total: int, up: int, down: int) -> None:
    assert resolve_count(value, total, round_up=True) == up
    assert resolve_count(value, total, round_up=False) == down


def test_the_image_is_the_vendors_where_none_is_asked_for() -> None:
    amd = parse_llmdeployment(manifest(accelerator={"vendor": "Amd"}))

    assert amd.engine_image.startswith("vllm/vllm-openai-rocm:")


def test_the_image_that_was_chosen_first_stays() -> None:
    chosen = {"engine": {"vendor": "Nvidia", "image": "vllm/vllm-openai:v0.1.0"}}

    assert parse_llmdeployment({**manifest(), "status": chosen}).engine_image == "vllm/vllm-openai:v0.1.0"


def test_another_vendor_gets_another_image() -> None:
    chosen = {"engine": {"vendor": "Nvidia", "image": "vllm/vllm-openai:v0.1.0"}}

    moved = parse_llmdeployment({**manifest(accelerator={"vendor": "Cpu"}), "status": chosen})

    assert moved.engine_image.startswith("vllm/vllm-openai-cpu:")
