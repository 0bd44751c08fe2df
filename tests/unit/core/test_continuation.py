from __future__ import annotations

from typing import Any

import pytest

from lull.core.continuation import MAX_TEXT, Story, may_continue
from tests.manifests import manifest, stored

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
QUESTION = {"role": "user", "content": "why?"}
ASKED: dict[str, Any] = {"model": "llama", "stream": True, "messages": [QUESTION]}
WILLING = stored(manifest(requests={"continueStreams": True}))


def delta(text: str | None = None, *, id_: str = "one", **fields: Any) -> dict[str, Any]:
    """An event of a chat as vLLM sends it."""
    says = {} if text is None else {"content": text}
    return {
        "id": id_,
        "object": "chat.completion.chunk",
        "created": 1 if id_ == "one" else 2,
        "model": "llama",
        "choices": [{"index": 0, "delta": {**says, **fields}, "logprobs": None, "finish_reason": None}],
    }


def end(reason: str = "stop", *, id_: str = "two") -> dict[str, Any]:
    event = delta("", id_=id_)
    event["choices"][0]["finish_reason"] = reason
    return event


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def tell(*texts: str, path: str = CHAT) -> Story:
    """A story of which the client has so much."""
    story = Story(path, hides_each=True)
    if path == CHAT:
        story.read(delta("", role="assistant"))
    for text in texts:
        story.read(delta(text) if path == CHAT else {"id": "one", "choices": [{"index": 0, "text": text}]})
    return story


def go_on(story: Story, **fields: Any) -> dict[str, Any]:
    body = story.continue_({**ASKED, **fields})
    assert body is not None
    return body


def test_a_chat_goes_on_after_the_text_that_was_sent() -> None:
    body = go_on(tell("Be", "cause"), max_tokens=10)

    assert body == {
        **ASKED,
        "max_tokens": 8,
        "messages": [QUESTION, {"role": "assistant", "content": "Because"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


def test_a_completion_goes_on_after_its_prompt_and_the_text_that_was_sent() -> None:
    story = tell(" upon", " a", path=COMPLETIONS)

    body = story.continue_({"prompt": "Once", "stream": True})

    assert body == {"prompt": "Once upon a", "stream": True, "max_tokens": 14}


def test_an_answer_that_continues_a_message_goes_on_in_that_message() -> None:
    messages = [QUESTION, {"role": "assistant", "content": "Well, "}]

    body = go_on(tell("because"), messages=messages, continue_final_message=True, add_generation_prompt=False)

    assert body["messages"] == [QUESTION, {"role": "assistant", "content": "Well, because"}]


def test_the_client_sees_one_stream() -> None:
    story = tell("Be", "cause")
    go_on(story)

    retold = [
        story.retell(event)
        for event in (delta("", id_="two", role="assistant"), delta(" it", id_="two"), delta(" is", id_="two"), end())
    ]

    assert retold == [None, delta(" it"), delta(" is"), {**end(id_="one")}]


def test_white_space_that_was_sent_is_not_sent_again() -> None:
    story = tell("because", "\n\n ")

    body = go_on(story)
    retold = [story.retell(delta(text, id_="two")) for text in ("\n", "\n it", " \n is")]

    assert body["messages"][-1]["content"] == "because"
    assert retold == [None, delta("it"), delta(" \n is")]


def test_white_space_that_comes_differently_is_left_alone() -> None:
    story = tell("because ")
    go_on(story)

    assert story.retell(delta("it", id_="two")) == delta("it")
    assert story.retell(delta(" is", id_="two")) == delta(" is")


def test_what_has_said_nothing_yet_is_asked_again_as_it_was() -> None:
    body = go_on(tell(), max_completion_tokens=7)

    assert body == {**ASKED, "max_completion_tokens": 7}


def test_usage_is_that_of_one_answer() -> None:
    story = tell("a", "b", "c")
    go_on(story)
    story.retell(delta("d", id_="two"))

    retold = story.retell({"id": "two", "created": 2, "choices": [], "usage": usage(13, 4)})

    assert retold == {"id": "one", "created": 1, "choices": [], "usage": usage(10, 7)}


def test_the_engines_own_count_is_preferred_where_events_bring_it() -> None:
    story = tell("a")
    story.read({**delta("bcd"), "usage": usage(10, 5)})

    assert go_on(story, max_tokens=20)["max_tokens"] == 15


def test_several_tokens_in_one_event_are_told_by_its_usage() -> None:
    story = tell("a")
    story.read({**delta("bcd"), "usage": usage(10, 5)})
    body = go_on(story, max_tokens=20)

    retold = story.retell({**delta("efg", id_="two"), "usage": usage(15, 4)})

    assert body["max_tokens"] == 15
    assert retold == delta("efg")
    assert go_on(story, max_tokens=20)["max_tokens"] == 11


def test_tokens_of_white_space_at_the_end_are_written_again() -> None:
    story = tell()
    story.read({**delta("because"), "usage": usage(10, 2)})
    story.read({**delta("\n\n \n"), "usage": usage(10, 4)})

    assert go_on(story, max_tokens=20)["max_tokens"] == 18


def test_usage_in_each_event_is_that_of_one_answer_where_the_client_asked_for_it() -> None:
    story = Story(CHAT, hides_each=False)
    story.read({**delta("because"), "usage": usage(10, 3)})
    go_on(story)

    assert story.retell({**delta(" it", id_="two"), "usage": usage(13, 1)}) == {**delta(" it"), "usage": usage(10, 4)}


def test_a_stream_may_break_more_than_once() -> None:
    story = tell("a", "b")
    go_on(story, max_tokens=10)
    story.retell(delta("c", id_="two"))

    body = go_on(story, max_tokens=10)

    assert body["messages"][-1]["content"] == "abc"
    assert body["max_tokens"] == 7
    assert story.retell(delta("d", id_="three")) == delta("d")


def test_least_tokens_shrink_with_the_most() -> None:
    assert go_on(tell("a", "b"), min_tokens=5)["min_tokens"] == 3
    assert go_on(tell("a", "b"), min_tokens=1)["min_tokens"] == 0


@pytest.mark.parametrize(
    "event",
    [
        delta(reasoning="hm"),
        delta(reasoning_content="hm"),
        delta(tool_calls=[{"index": 0}]),
        {"id": "one", "choices": [{"index": 1, "delta": {"content": "b"}}]},
        end(),
        delta("x" * (MAX_TEXT + 1)),
        None,
    ],
)
def test_some_answers_are_not_continued(event: Any) -> None:
    story = tell("a")
    story.read(event)

    assert story.continue_(ASKED) is None


def test_an_answer_that_is_as_long_as_it_may_be_is_not_continued() -> None:
    assert tell("a", "b").continue_({**ASKED, "max_tokens": 2}) is None


def test_nothing_is_made_of_errors() -> None:
    story = tell("a")
    error = {"error": {"message": "died", "code": 500}}

    assert story.retell(error) == error
    assert go_on(story)["messages"][-1]["content"] == "a"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CHAT, ASKED),
        (CHAT, {**ASKED, "stop": ["\n"], "seed": 7, "tools": [], "n": 1, "response_format": {"type": "text"}}),
        (CHAT, {**ASKED, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
        (COMPLETIONS, {"stream": True, "prompt": "a"}),
        (COMPLETIONS, {"stream": True, "prompt": ["a"]}),
    ],
)
def test_may_be_continued(path: str, content: dict[str, Any]) -> None:
    assert may_continue(WILLING, path, content)
    assert not may_continue(stored(manifest()), path, content)
    assert not may_continue(WILLING, path, {**content, "stream": False})


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CHAT, {"tools": [{}]}),
        (CHAT, {"response_format": {"type": "json_object"}}),
        (CHAT, {"structured_outputs": {"regex": "a"}}),
        (CHAT, {"n": 2}),
        (CHAT, {"logprobs": True}),
        (CHAT, {"presence_penalty": 0.5}),
        (CHAT, {"stop": ["a"], "include_stop_str_in_output": True}),
        (CHAT, {"messages": []}),
        (CHAT, {"messages": [QUESTION, {"role": "assistant", "content": "a"}]}),
        (CHAT, {"add_generation_prompt": False}),
        (CHAT, {"continue_final_message": True}),
        (COMPLETIONS, {"prompt": [1, 2]}),
        (COMPLETIONS, {"prompt": ["a", "b"]}),
        (COMPLETIONS, {"prompt": "a", "echo": True}),
        (COMPLETIONS, {"prompt": "a", "best_of": 2}),
        (COMPLETIONS, {"prompt": "a", "suffix": "b"}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {}),
    ],
)
def test_must_not_be_continued(path: str, content: dict[str, Any]) -> None:
    assert not may_continue(WILLING, path, {**ASKED, **content})
