from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.core.affinity import BLOCK_BYTES, EXPECTED_OUTPUT, MAX_BLOCKS, MEDIA_TOKENS, Work, measure_work

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Call:
    content: Mapping[str, Any]
    path: str = CHAT
    max_tokens: int | None = None
    rest: dict[str, Any] = field(default_factory=dict)


def measure(content: Mapping[str, Any], *, path: str = CHAT, adapter: str = "") -> Work:
    return measure_work(Call(content, path), len(orjson.dumps(content)), adapter=adapter)


def estimate(call: Call, size: int) -> tuple[int, int]:
    work = measure_work(call, size)
    return work.prompt_tokens, work.output_tokens


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def common(one: Work, other: Work) -> int:
    """Blocks that two have in common, from the beginning."""
    same = [left == right for left, right in zip(one.blocks, other.blocks, strict=False)]
    return (*same, False).index(False)


SYSTEM = said("system", "You are the assistant of a bank, and answer in two sentences. " * 50)
HELLO = said("user", "What does a transfer to Norway cost, and how long does it take? " * 20)
TURN = {"messages": [SYSTEM, HELLO]}


class TestBlocks:
    def test_the_next_turn_begins_with_all_whole_blocks_of_the_last(self) -> None:
        following = {"messages": [*TURN["messages"], said("assistant", "Nothing. " * 200), said("user", "Thanks")]}

        before, after = measure(TURN), measure(following)

        assert len(before.blocks) == 4
        assert common(before, after) == 4
        assert len(after.blocks) > 4

    def test_conversations_with_one_system_prompt_share_its_blocks_and_no_more(self) -> None:
        one = measure(TURN)
        other = measure({"messages": [SYSTEM, said("user", "Good morning! " * 100)]})

        assert common(one, other) == len(SYSTEM["content"]) // BLOCK_BYTES == 3

    def test_a_difference_in_the_first_block_leaves_nothing_in_common(self) -> None:
        other = {"messages": [said("system", "!" + SYSTEM["content"]), HELLO]}

        assert set(measure(TURN).blocks).isdisjoint(measure(other).blocks)

    def test_adapters_share_nothing(self) -> None:
        assert set(measure(TURN, adapter="fr").blocks).isdisjoint(measure(TURN, adapter="de").blocks)
        assert set(measure(TURN, adapter="fr").blocks).isdisjoint(measure(TURN).blocks)

    def test_what_is_no_part_of_the_prompt_changes_nothing(self) -> None:
        one, other = measure({"temperature": 0.3, "user": "u-17", **TURN, "seed": 4}), measure(TURN)

        assert (one.prompt_tokens, one.output_tokens, one.blocks) == (
            other.prompt_tokens,
            other.output_tokens,
            other.blocks,
        )

    @pytest.mark.parametrize("name", ["tools", "system", "instructions"])
    def test_what_comes_before_the_messages_counts_first(self, name: str) -> None:
        assert set(measure({**TURN, name: ["x" * 100]}).blocks).isdisjoint(measure(TURN).blocks)

    @pytest.mark.parametrize("name", ["prompt", "input", "query"])
    def test_other_ways_of_asking_have_blocks_too(self, name: str) -> None:
        assert len(measure({name: "word " * 1000}).blocks) == 4

    def test_every_process_computes_the_same(self) -> None:
        script = "from tests.unit.core.test_affinity import TURN, measure\nprint(*measure(TURN, adapter='fr').blocks)"

        printed = subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
        )

        assert tuple(map(int, printed.stdout.split())) == measure(TURN, adapter="fr").blocks

    def test_there_are_no_more_than_a_bound(self) -> None:
        assert len(measure({"prompt": "word " * 200_000}).blocks) == MAX_BLOCKS

    def test_a_short_prompt_has_none(self) -> None:
        assert measure({"messages": [said("user", "Hi")]}).blocks == ()

    @given(st.lists(st.text(max_size=3000), min_size=1, max_size=6), st.text(max_size=3000))
    def test_whatever_follows_leaves_the_beginning_as_it_is(self, turns: list[str], more: str) -> None:
        messages = [said("user", turn) for turn in turns]
        before = measure({"messages": messages})
        after = measure({"messages": [*messages, said("user", more)]})

        assert after.blocks[: len(before.blocks)] == before.blocks


class TestTokens:
    def test_four_bytes_are_a_token(self) -> None:
        assert measure({"prompt": "x" * 7998}).prompt_tokens == 2000
        assert measure_work(Call({}), 400).prompt_tokens == 100

    def test_numbers_are_tokens_already(self) -> None:
        assert measure({"prompt": list(range(1000, 6000))}).prompt_tokens == 5000

    def test_a_picture_counts_as_one_whatever_its_bytes(self) -> None:
        def with_picture(data: str) -> Work:
            picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
            text = {"type": "text", "text": "What is this? " * 100}
            return measure({"messages": [{"role": "user", "content": [picture, text]}]})

        small, large = with_picture("A" * 5000), with_picture("A" * 5_000_000)

        assert MEDIA_TOKENS + 300 < small.prompt_tokens < MEDIA_TOKENS + 500
        assert abs(large.prompt_tokens - small.prompt_tokens) < 10
        assert set(small.blocks).isdisjoint(large.blocks)
        assert with_picture("B" * 5000).blocks[-1] != small.blocks[-1]

    def test_answers_are_as_long_as_asked_for_up_to_what_is_usual(self) -> None:
        assert measure_work(Call({}, max_tokens=16), 100).output_tokens == 16
        assert measure_work(Call({}, max_tokens=100_000), 100).output_tokens == EXPECTED_OUTPUT
        assert measure_work(Call({}), 100).output_tokens == EXPECTED_OUTPUT

    @pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize"])
    def test_what_writes_nothing_has_no_answer_to_wait_for(self, path: str) -> None:
        assert measure_work(Call({}, path=path, max_tokens=100), 100).output_tokens == 0


class TestOddities:
    def test_what_cannot_be_written_again_is_measured_by_its_size(self) -> None:
        nested: list[Any] = []
        for _ in range(300):
            nested = [nested]

        assert estimate(Call({"messages": [{"role": "user", "content": nested}]}), 4000) == (1000, 256)
        assert estimate(Call({"prompt": "\ud800"}), 4000) == (1000, 256)
        assert estimate(Call({"prompt": [2**70]}), 4000) == (1000, 256)

    @given(
        st.dictionaries(
            st.sampled_from(("messages", "prompt", "input", "tools", "system", "documents", "query")),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
                lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(("role", "content", "type")), inner),
            ),
        ),
        st.integers(0, 10**7),
    )
    def test_nothing_that_parses_is_too_odd(self, content: dict[str, Any], size: int) -> None:
        work = measure_work(Call(content), size)

        assert work.prompt_tokens >= 0
        assert len(work.blocks) <= MAX_BLOCKS
