from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field

from lull.api import spec
from lull.api.llmdeployment import InvalidSpec, parse_llmdeployment
from lull.api.schema import build_crd, build_structural
from lull.api.base import ApiModel
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
        if path.startswith(".spec") and field["type"] in bounds and not field.keys() & {bounds[field["type"]], "enum"}
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
    types = [value for value in vars(spec).values() if isinstance(value, type) and issubclass(value, ApiModel)]
    messages = {rule.message for type_ in types for rule in type_.rules}

    assert messages == {message for _, message in BROKEN_RULES.values()}


def test_every_rule_reaches_the_schema() -> None:
    written = {rule["message"] for field in OURS.values() for rule in field.get("x-kubernetes-validations", ())}

    assert written == {message for _, message in BROKEN_RULES.values()}


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
