from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lull.api.llmdeployment import LLMDeployment
from lull.core.answers import ENTRY_BYTES, Answer, Answers, Terms, find_slot, may_keep
from lull.core.manifests import find_revision
from tests.manifests import manifest, stored

CHAT = "/v1/chat/completions"


def model(
    name: str = "llama-8b", *, when: str = "Deterministic", max_bytes: str = "64Ki", **spec: Any
) -> LLMDeployment:
    cache = {"ttl": "10s", "maxBytes": max_bytes, "when": when}
    return stored(manifest(name=name, requests={"cache": cache}, **spec))


def answer(size: int = 10, *, until: float = 10.0) -> Answer:
    return Answer(b"x" * size, is_event_stream=False, until=until)


def revision(deployment: LLMDeployment) -> str:
    return find_revision(deployment, deployment.spec.placement.pools[0])


def keep(answers: Answers, deployment: LLMDeployment, slot: bytes, kept: Answer) -> None:
    answers.keep(deployment, slot, kept, revision=revision(deployment))


def terms(deployment: LLMDeployment) -> Terms:
    found = Answers().terms(deployment)
    assert found is not None
    return found


def test_gives_an_answer_again_until_its_time_is_over() -> None:
    answers, deployment = Answers(), model()

    keep(answers, deployment, b"a", answer())

    assert answers.find(deployment.key, b"a", now=9.9) == answer()
    assert answers.find(deployment.key, b"b", now=0.0) is None
    assert answers.find(deployment.key, b"a", now=10.0) is None
    assert (len(answers), answers.size) == (0, 0)


def test_is_off_where_the_spec_does_not_ask_for_it() -> None:
    answers, deployment = Answers(), stored(manifest())

    answers.keep(deployment, b"a", answer(), revision="")

    assert answers.terms(deployment) is None
    assert len(answers) == 0


def test_the_answer_used_longest_ago_makes_room_within_its_model() -> None:
    answers, deployment = Answers(), model()
    size = 2**16 // 2 - ENTRY_BYTES

    keep(answers, deployment, b"a", answer(size))
    keep(answers, deployment, b"b", answer(size))
    answers.find(deployment.key, b"a", now=0.0)
    keep(answers, deployment, b"c", answer(size))

    assert [bool(answers.find(deployment.key, slot, now=0.0)) for slot in (b"a", b"b", b"c")] == [True, False, True]
    assert answers.size == 2**16


def test_all_models_together_have_a_bound() -> None:
    answers = Answers(max_bytes=3 * (100 + ENTRY_BYTES))
    one, other = model("one"), model("other")

    for slot in (b"a", b"b"):
        keep(answers, one, slot, answer(100))
        keep(answers, other, slot, answer(100))

    assert answers.find(one.key, b"a", now=0.0) is None
    assert len(answers) == 3


def test_an_answer_larger_than_the_room_is_not_kept_and_displaces_nothing() -> None:
    answers, deployment = Answers(), model()
    keep(answers, deployment, b"a", answer())

    keep(answers, deployment, b"b", answer(2**16))

    assert answers.find(deployment.key, b"a", now=0.0) is not None
    assert len(answers) == 1


def test_the_same_answer_kept_twice_takes_one_place() -> None:
    answers, deployment = Answers(), model()

    keep(answers, deployment, b"a", answer())
    keep(answers, deployment, b"a", answer(20))

    assert answers.size == 20 + ENTRY_BYTES


def test_another_revision_purges_and_another_number_of_replicas_does_not() -> None:
    answers, deployment = Answers(), model()
    keep(answers, deployment, b"a", answer())

    answers.terms(replace(model(scaling={"maxReplicas": 9}), generation=2))
    assert answers.find(deployment.key, b"a", now=0.0) is not None
    answers.terms(model(engine={"maxModelLen": 4096}))

    assert answers.find(deployment.key, b"a", now=0.0) is None


@pytest.mark.parametrize("other", [replace(model(), uid="another"), stored(manifest())], ids=["anew", "off"])
def test_another_object_of_the_name_purges_and_so_does_turning_it_off(other: LLMDeployment) -> None:
    answers, deployment = Answers(), model()
    keep(answers, deployment, b"a", answer())

    answers.terms(other)

    assert (len(answers), answers.size) == (0, 0)


def test_what_a_pod_of_an_earlier_revision_says_is_not_kept() -> None:
    answers, earlier = Answers(), model()
    later = model(engine={"maxModelLen": 4096})

    answers.keep(later, b"a", answer(), revision=revision(earlier))
    answers.keep(later, b"b", answer(), revision="")

    assert answers.find(later.key, b"a", now=0.0) is None
    assert answers.find(later.key, b"b", now=0.0) is not None


def test_less_room_takes_effect_at_once() -> None:
    answers, deployment = Answers(), model(max_bytes="1Mi")
    for number in range(4):
        keep(answers, deployment, bytes([number]), answer(30_000))

    answers.terms(model())

    assert answers.size <= 2**16


def test_a_slot_is_of_one_key_one_path_and_one_body() -> None:
    slots = {
        find_slot(path, body, tenant=tenant)
        for path in (CHAT, "/v1/completions")
        for body in (b"{}", b"{ }")
        for tenant in ("ann", "bob", "")
    }

    assert len(slots) == 12
    assert find_slot(CHAT, b"{}", tenant="ann") == find_slot(CHAT, b"{}", tenant="ann")


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        (CHAT, {"temperature": 0}, True),
        (CHAT, {"temperature": 0.0, "n": 1, "stream": True}, True),
        ("/v1/completions", {"temperature": 0}, True),
        ("/v1/messages", {"temperature": 0}, True),
        (CHAT, {}, False),
        (CHAT, {"temperature": None}, False),
        (CHAT, {"temperature": False}, False),
        (CHAT, {"temperature": "0"}, False),
        (CHAT, {"temperature": 0.1, "seed": 1}, False),
        (CHAT, {"temperature": 0, "n": 2}, False),
        ("/v1/responses", {"temperature": 0}, False),
        ("/v1/embeddings", {}, True),
        ("/v1/rerank", {}, True),
        ("/v1/score", {}, True),
    ],
)
def test_deterministic_means_what_comes_out_the_same(path: str, content: dict[str, Any], expected: bool) -> None:
    assert may_keep(terms(model()), path, content, wish="") is expected


@pytest.mark.parametrize("when", ["Deterministic", "OnRequest"])
def test_a_request_may_wish_for_it_or_against_it(when: str) -> None:
    here = terms(model(when=when))

    assert may_keep(here, CHAT, {"temperature": 1}, wish="use")
    assert not may_keep(here, CHAT, {"temperature": 0}, wish="skip")
    assert not may_keep(here, "/v1/responses", {"temperature": 0}, wish="use")


def test_on_request_keeps_nothing_unasked() -> None:
    assert not may_keep(terms(model(when="OnRequest")), "/v1/embeddings", {}, wish="")
