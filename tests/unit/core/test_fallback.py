from __future__ import annotations

from typing import Any

import pytest

from lull.api.llmdeployment import Key, LLMDeployment
from lull.core.catalogue import build_catalogue
from lull.core.fallback import Asked, Detour, StandIn, State, choose, choose_next
from tests.manifests import manifest, stored

SMALL = {"model": "small", "maxPromptTokens": 100}
MIDDLE = {"model": "middle", "maxPromptTokens": 1000}
LORA = {"model": {"source": "hf://a/b"}, "adapters": {"items": [{"name": "lora", "source": "hf://a/c"}]}}


def model(name: str, **spec: Any) -> LLMDeployment:
    return stored(manifest(name=name, **spec))


def key(name: str) -> Key:
    return Key("default", name)


def state(*, cold: tuple[str, ...] = (), full: tuple[str, ...] = ()) -> State:
    return State(
        is_cold=lambda one: one.name in cold,
        has_room=lambda one, _: one.name not in {*cold, *full},
    )


def asked(deployment: LLMDeployment, prompt_tokens: int = 500, allowed: tuple[str, ...] | None = None) -> Asked:
    return Asked("big", deployment, prompt_tokens, allows=lambda name: allowed is None or name in allowed)


def names(deployments: list[LLMDeployment], detour: Detour) -> tuple[str, tuple[str, ...]]:
    assert all(deployment.key.namespace == "default" for deployment in deployments)
    return "" if detour.stand_in is None else detour.stand_in.name, tuple(one.name for one in detour.missed)


def go(
    big: LLMDeployment, now: State, *others: LLMDeployment, tokens: int = 500, allowed: tuple[str, ...] | None = None
) -> tuple[str, tuple[str, ...]]:
    deployments = [big, *(others or (model("small"), model("middle")))]
    return names(deployments, choose(asked(big, tokens, allowed), build_catalogue(deployments), now))


def go_on(big: LLMDeployment, now: State, failed: str, *others: LLMDeployment, tokens: int = 500) -> StandIn | None:
    catalogue = build_catalogue([big, *(others or (model("small"), model("middle")))])
    return choose_next(asked(big, tokens), catalogue, now, failed=key(failed))


def test_a_model_that_is_up_answers_for_itself() -> None:
    assert go(model("big", fallback=["small"]), state()) == ("", ())
    assert go(model("big", fallback=["small"]), state(full=("big",))) == ("", ())


def test_while_a_model_sleeps_its_fallback_answers_and_it_is_to_wake() -> None:
    assert go(model("big", fallback=["small"]), state(cold=("big",))) == ("small", ("big",))


def test_the_first_fallback_that_has_room_answers() -> None:
    big = model("big", fallback=["small", "middle"])

    assert go(big, state(cold=("big",), full=("small",))) == ("middle", ("big",))
    assert go(big, state(cold=("big", "small"), full=("middle",))) == ("", ())


def test_short_prompts_go_to_the_small_model_first() -> None:
    big = model("big", routes=[SMALL, MIDDLE])

    assert go(big, state(), tokens=100) == ("small", ())
    assert go(big, state(), tokens=101) == ("middle", ())
    assert go(big, state(), tokens=1001) == ("", ())


def test_a_route_without_room_is_passed_over_and_woken_if_it_sleeps() -> None:
    big = model("big", routes=[SMALL, MIDDLE])

    assert go(big, state(full=("small",)), tokens=5) == ("middle", ())
    assert go(big, state(cold=("small", "middle")), tokens=5) == ("", ("small", "middle"))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(model("small", model={"source": "hf://a/b", "task": "Embed"}), id="another task"),
        pytest.param(model("small", engine={"maxModelLen": 400}), id="a shorter context"),
        pytest.param(model("tiny"), id="another name"),
    ],
)
def test_who_cannot_do_it_is_no_stand_in(other: LLMDeployment) -> None:
    assert go(model("big", fallback=["small"]), state(cold=("big",)), other) == ("", ())


def test_a_key_gets_no_model_that_it_may_not_use() -> None:
    big = model("big", fallback=["small", "middle"])

    assert go(big, state(cold=("big",)), allowed=("big", "middle")) == ("middle", ("big",))


def test_a_stand_in_may_be_an_adapter_or_an_alias() -> None:
    other = model("small", **LORA)
    big = model("big", fallback=["lora"])

    detour = choose(asked(big), build_catalogue([big, other]), state(cold=("big",)))

    assert detour.stand_in == StandIn("lora", other, "lora")


def test_who_fails_is_followed_by_the_next_that_has_room() -> None:
    big = model("big", fallback=["small", "middle"])

    first = go_on(big, state(), "big")
    second = go_on(big, state(), "small")

    assert first is not None
    assert (first.name, first.adapter) == ("small", "")
    assert second is not None
    assert second.name == "middle"
    assert go_on(big, state(), "middle") is None
    assert go_on(big, state(full=("small", "middle")), "big") is None


def test_what_a_route_could_not_do_the_model_itself_does_be_it_that_it_waits() -> None:
    big = model("big", routes=[SMALL], fallback=["small", "middle"])
    now = state(cold=("big",))

    back = go_on(big, now, "small", tokens=5)
    last = go_on(big, now, "big", tokens=5)

    assert back == StandIn("big", big, "")
    assert last is not None
    assert last.name == "middle"


def test_lists_of_a_stand_in_are_not_followed() -> None:
    small = model("small", fallback=["middle"])
    big = model("big", fallback=["small"])

    assert go_on(big, state(), "small", small, model("middle")) is None
