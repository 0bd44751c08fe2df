from __future__ import annotations

import textwrap

import pytest

from lull.api.llmdeployment import InvalidSpec, LLMDeployment
from lull.core.documents import Finding, Severity
from lull.core.linting import lint
from lull.core.manifests import build
from tests.manifests import SETTINGS

HEAD = """\
apiVersion: lull.dev/v1alpha1
kind: LLMDeployment
metadata:
  name: llama-8b
"""
SPEC = """\
spec:
  model:
    source: hf://org/name@abc
  resources:
    memory: 16Gi
"""


def _check(deployment: LLMDeployment) -> None:
    build(deployment, SETTINGS)


def _lint(text: str) -> tuple[Finding, ...]:
    return lint(textwrap.dedent(text), check=_check)


def test_says_nothing_of_a_good_file() -> None:
    assert _lint(HEAD + SPEC) == ()


def test_names_the_line_of_an_unknown_field_and_the_known_ones() -> None:
    (finding,) = _lint(HEAD + SPEC + "  engine:\n    maxModelLength: 8192\n")

    assert (finding.line, finding.severity, finding.where) == (11, Severity.ERROR, "spec.engine.maxModelLength")
    assert "maxModelLen," in finding.message


def test_finds_unknown_fields_in_lists() -> None:
    (finding,) = _lint(HEAD + SPEC + "  placement:\n    pools:\n    - name: a\n    - name: b\n      capacity: Spot\n")

    assert (finding.line, finding.where) == (14, "spec.placement.pools[1].capacity")


def test_a_key_that_stands_twice_is_an_error() -> None:
    (finding,) = _lint(HEAD + SPEC + "  replicas: 2\n  replicas: 3\n")

    assert (finding.line, finding.message) == (11, "stands twice; only the last one counts")


def test_a_wrong_value_has_the_line_of_its_field() -> None:
    (finding,) = _lint(HEAD + SPEC + "  scaling:\n    minReplicas: 1\n    maxReplicas: 0\n")

    assert (finding.line, finding.where) == (12, "spec.scaling.maxReplicas")
    assert "greater than or equal to 1" in finding.message


def test_a_pattern_is_explained_by_what_the_field_means() -> None:
    (finding,) = _lint(HEAD + "spec:\n  model:\n    source: https://example.org\n")

    assert finding.line == 7
    assert "hf://org/name[@revision]" in finding.message


def test_a_value_of_neither_type_is_told_once() -> None:
    (finding,) = _lint(HEAD + SPEC + "  rollout:\n    maxSurge: most\n")

    assert finding.where == "spec.rollout.maxSurge"
    assert "a number or a percentage" in finding.message


def test_a_missing_field_has_the_line_of_its_parent() -> None:
    (finding,) = _lint(HEAD + "spec:\n  model:\n    name: x\n")

    assert (finding.line, finding.where, finding.message) == (6, "spec.model.source", "Field required")


def test_a_broken_rule_is_told() -> None:
    (finding,) = _lint(HEAD + SPEC + "  scaling:\n    minReplicas: 9\n")

    assert (finding.where, finding.message) == ("spec.scaling", "minReplicas must not be greater than maxReplicas")


def test_what_cannot_be_rendered_is_told_with_its_field() -> None:
    (finding,) = _lint(HEAD + SPEC + "  engine:\n    extraArgs: [--port, '1']\n")

    assert (finding.line, finding.where) == (11, "spec.engine.extraArgs")
    assert finding.message == "--port is refused: Lull sets it itself"


def test_a_name_that_no_service_may_have_is_told() -> None:
    (finding,) = _lint(HEAD.replace("llama-8b", "8b") + SPEC)

    assert (finding.line, finding.where) == (4, "metadata.name")


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ("  model:\n    source: hf://org/name\n  resources:\n    memory: 1Gi\n    sharedMemory: 1Mi\n", "spec.model.source"),
        (SPEC.removeprefix("spec:\n") + "  engine:\n    image: vllm/vllm-openai:latest\n", "spec.engine.image"),
        (SPEC.removeprefix("spec:\n") + "  engine:\n    image: registry:5000/vllm\n", "spec.engine.image"),
        (SPEC.removeprefix("spec:\n") + "  replicas: 1\n  scaling:\n    maxReplicas: 2\n", "spec.replicas"),
        ("  model:\n    source: hf://org/name@abc\n", "spec.resources"),
        (
            SPEC.removeprefix("spec:\n")
            + "  engine:\n    maxNumSeqs: 8\n  scaling:\n    target:\n      inFlight: 32\n",
            "spec.scaling.target.inFlight",
        ),
        (SPEC.removeprefix("spec:\n") + "  scaling:\n    maxReplicas: 100\n", "spec.model.cache"),
        (
            SPEC.removeprefix("spec:\n") + "  accelerator:\n    vendor: Cpu\n  scaling:\n    sleep: {}\n",
            "spec.scaling.sleep",
        ),
        (
            "  model:\n    source: hf://org/name@abc\n    trustRemoteCode: true\n  resources:\n    memory: 16Gi\n",
            "spec.model.trustRemoteCode",
        ),
    ],
)  # fmt: skip
def test_warns_of_what_will_be_regretted(spec: str, where: str) -> None:
    (finding,) = _lint(HEAD + "spec:\n" + spec)

    assert (finding.severity, finding.where) == (Severity.WARNING, where)


def test_status_is_not_for_users() -> None:
    (finding,) = _lint(HEAD + SPEC + "status:\n  replicas: 1\n")

    assert (finding.severity, finding.where) == (Severity.WARNING, "status")


def test_another_version_is_an_error() -> None:
    (finding,) = _lint((HEAD + SPEC).replace("v1alpha1", "v1"))

    assert (finding.line, finding.where) == (1, "apiVersion")


def test_other_kinds_are_passed_over() -> None:
    assert _lint("apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n---\n" + HEAD + SPEC) == ()


def test_lines_count_through_all_documents() -> None:
    (finding,) = _lint(HEAD + SPEC + "---\n" + HEAD + SPEC + "  replica: 1\n")

    assert finding.line == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"),
        ("a: {b", "is no YAML"),
        ("kind: Pod\n", "holds no LLMDeployment"),
        ("", "holds no LLMDeployment"),
    ],
)
def test_a_file_without_a_model_is_an_error(text: str, message: str) -> None:
    (finding,) = _lint(text)

    assert finding.severity is Severity.ERROR
    assert finding.message.startswith(message)


def test_every_refusal_of_a_check_is_told_whatever_it_names() -> None:
    def refuse(_: LLMDeployment) -> None:
        raise InvalidSpec("no such luck: really")

    (finding,) = lint(HEAD + SPEC, check=refuse)

    assert (finding.where, finding.message) == ("spec", "no such luck: really")


def test_a_fallback_that_nothing_here_serves_is_doubted_where_there_are_several_models() -> None:
    first = HEAD + SPEC + "  fallback: [small, other]\n"
    second = HEAD.replace("llama-8b", "small") + SPEC

    (finding,) = _lint(f"{first}---\n{second}")

    assert (finding.line, finding.severity, finding.where) == (10, Severity.WARNING, "spec.fallback[1]")
    assert '"other"' in finding.message
    assert _lint(first) == ()


def test_a_route_is_looked_for_in_all_files() -> None:
    text = HEAD + SPEC + "  routes:\n  - {model: small, maxPromptTokens: 100}\n"

    assert lint(text, check=_check, beside={"small"}) == ()
    assert [finding.where for finding in lint(text, check=_check, beside={"large"})] == ["spec.routes[0].model"]


def test_a_model_that_sleeps_at_once_never_wakes_beside_a_fallback() -> None:
    (finding,) = _lint(HEAD + SPEC + "  fallback: [small]\n  scaling:\n    idleAfter: 0s\n")

    assert finding.where == "spec.fallback"
    assert "keeps a model asleep" in finding.message
