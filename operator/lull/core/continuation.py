"""Going on with a stream whose engine died: what another engine is asked for, and how the two become one.

The other engine reads the prompt and, after it, the text that the client has already; it goes on from there, and its
events are made to look like the first one's. Where that would not give what one engine would have given, or where
nobody can tell, nothing is continued: the client learns that its answer is incomplete.

White space at the end of what was sent is left out of what the other engine reads, since chat templates strip it and
most tokens begin with theirs; it comes again, and is left out of what the client gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lull.api.llmdeployment import LLMDeployment

PATH_CHAT: Final = "/v1/chat/completions"
PATH_COMPLETIONS: Final = "/v1/completions"

MAX_TEXT: Final = 1 << 20
"""Characters of an answer that are kept; a longer one is not continued."""
COMPLETION_TOKENS: Final = 16
"""What /v1/completions writes where the client does not say how much."""

_NOT_CONTINUED: Final = (
    "tools",
    "functions",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "return_token_ids",
    "echo",
    "suffix",
    "use_beam_search",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "frequency_penalty",
    "presence_penalty",
    "thinking_token_budget",
)
"""What another engine would begin anew, or what its events could not be told from the first one's by."""
_NOT_TEXT: Final = frozenset({"tool_calls", "function_call", "reasoning", "reasoning_content", "refusal"})
_LIMITS: Final = ("max_completion_tokens", "max_tokens")


def may_continue(deployment: LLMDeployment, path: str, content: Mapping[str, Any]) -> bool:
    """Whether a stream is to be watched: it is asked to be, and nothing in the request speaks against it."""
    return (
        deployment.spec.requests.continue_streams
        and content.get("stream") is True
        and path in {PATH_CHAT, PATH_COMPLETIONS}
        and not any(content.get(name) for name in _NOT_CONTINUED)
        and all(content.get(name) in {None, 1} for name in ("n", "best_of"))
        and (content.get("response_format") or {"type": "text"}) == {"type": "text"}
        # Without the stop itself in the answer, an engine keeps back whatever may become one; with it, half of one may
        # have been sent.
        and not (content.get("stop") and content.get("include_stop_str_in_output"))
        and (_ends_in_question(content) if path == PATH_CHAT else _is_one_text(content.get("prompt")))
    )


class Story:
    """One answer in the making, from as many engines as it takes."""

    __slots__ = (
        "_content",
        "_drops",
        "_first",
        "_hides_each",
        "_is_chat",
        "_is_continued",
        "_is_done",
        "_is_lost",
        "_pieces",
        "_size",
        "_tokens",
        "_tokens_before",
        "_tokens_kept",
    )

    def __init__(self, path: str, *, hides_each: bool) -> None:
        """`hides_each`: events with choices tell the usage so far, for which the client did not ask."""
        self._hides_each = hides_each
        self._is_chat = path == PATH_CHAT
        self._first: Mapping[str, Any] = {}
        """The first event: the others bear its id."""
        self._pieces: list[str] = []
        self._size = 0
        self._tokens = 0
        """Of the present engine: as its usage says where an event brings it, else one for each event with a choice."""
        self._tokens_kept = 0
        """Of these, up to the last text that is not white space: what comes after that is written again."""
        self._tokens_before = 0
        """Of the engines before it."""
        self._drops = ""
        """White space that the client has, and that the present engine may repeat."""
        self._is_continued = False
        self._is_done = False
        self._is_lost = False
        """Something came that cannot be continued."""

    def read(self, event: Any) -> None:  # noqa: ANN401  any JSON value
        """What an engine sends and the client gets as it is."""
        if not isinstance(event, dict):
            self._is_lost = True
            return
        if "error" in event:
            return
        self._first = self._first or event
        self._hear(event)

    def continue_(self, content: Mapping[str, Any]) -> dict[str, Any] | None:
        """The body for another engine, made of the first one's; None where it must not be continued."""
        if self._is_lost or self._is_done or not self._first:
            return None
        text = "".join(self._pieces)
        kept = text.rstrip()
        self._tokens_before += self._tokens_kept
        self._tokens = self._tokens_kept = 0
        limits = _shorten(content, self._tokens_before, is_chat=self._is_chat)
        if limits is None:
            return None
        self._drops = text[len(kept) :]
        self._is_continued = True
        if not kept:
            return {**content, **limits}
        if not self._is_chat:
            prompt = content["prompt"]
            return {**content, **limits, "prompt": (prompt if isinstance(prompt, str) else prompt[0]) + kept}
        *before, last = content["messages"]
        if last["role"] != "assistant":
            before, last = content["messages"], {"role": "assistant", "content": ""}
        return {
            **content,
            **limits,
            "messages": [*before, {**last, "content": last["content"] + kept}],
            "add_generation_prompt": False,
            "continue_final_message": True,
        }

    def retell(self, event: Any) -> Any:  # noqa: ANN401  any JSON value
        """An event as the client is to see it after those that it has; None where it has that already."""
        if not self._is_continued or not isinstance(event, dict) or "error" in event:
            self.read(event)
            return event
        choices = event.get("choices") or []
        for choice in choices:
            self._trim(choice)
        self._hear(event)
        if self._hides_each and choices:
            event.pop("usage", None)
        if not event.get("usage") and not any(choice.get("finish_reason") or _text(choice) for choice in choices):
            return None
        for name in ("id", "created", "model", "system_fingerprint"):
            if name in self._first and name in event:
                event[name] = self._first[name]
        if usage := event.get("usage"):
            # The text so far was read as a prompt there, and written as an answer before.
            usage["prompt_tokens"] = max(0, usage.get("prompt_tokens", 0) - self._tokens_before)
            usage["completion_tokens"] = usage.get("completion_tokens", 0) + self._tokens_before
        return event

    def _hear(self, event: Mapping[str, Any]) -> None:
        choices = event.get("choices") or ()
        for choice in choices:
            self._add(choice)
        usage = event.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            # An engine that is ahead of its reader puts several tokens into one event.
            self._tokens = usage["completion_tokens"]
        if any(_text(choice).strip() for choice in choices):
            self._tokens_kept = self._tokens

    def _add(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta") or {}
        if choice.get("index", 0) != 0:
            self._is_lost = True
        if not _NOT_TEXT.isdisjoint(delta) and any(delta.get(name) for name in _NOT_TEXT):
            self._is_lost = True
        if choice.get("finish_reason"):
            self._is_done = True
        text = _text(choice)
        if text or not delta.get("role"):
            # Also of half a character there is a token, whose text comes with the other half.
            self._tokens += 1
        if text:
            self._size += len(text)
            self._pieces.append(text)
        if self._size > MAX_TEXT:
            self._is_lost = True
            self._pieces.clear()

    def _trim(self, choice: dict[str, Any]) -> None:
        """Take out the role, which was told, and white space that was sent before."""
        delta = choice.get("delta")
        if delta is not None:
            delta.pop("role", None)
        text = _text(choice)
        if not text or not self._drops:
            return
        same = next(
            (at for at, (one, other) in enumerate(zip(text, self._drops, strict=False)) if one != other),
            min(len(text), len(self._drops)),
        )
        # As soon as something else comes, the white space is not being repeated any more.
        self._drops = self._drops[same:] if same == len(text) else ""
        if delta is not None:
            delta["content"] = text[same:]
        else:
            choice["text"] = text[same:]


def _text(choice: Mapping[str, Any]) -> str:
    delta = choice.get("delta")
    text = choice.get("text") if delta is None else delta.get("content")
    return text if isinstance(text, str) else ""


def _shorten(content: Mapping[str, Any], written: int, *, is_chat: bool) -> dict[str, Any] | None:
    """How much may still be written; None where that is nothing."""
    limits = {name: content[name] - written for name in _LIMITS if isinstance(content.get(name), int)}
    if not limits and not is_chat:
        limits = {"max_tokens": COMPLETION_TOKENS - written}
    if any(left <= 0 for left in limits.values()):
        return None
    least = content.get("min_tokens")
    return {**limits, "min_tokens": max(0, least - written)} if isinstance(least, int) else limits


def _ends_in_question(content: Mapping[str, Any]) -> bool:
    """Whether an answer can be put after the messages, or is being put to the end of the last one already."""
    messages = content.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return False
    last = messages[-1]
    if last.get("role") != "assistant":
        return not content.get("continue_final_message") and content.get("add_generation_prompt") is not False
    return bool(content.get("continue_final_message")) and isinstance(last.get("content"), str)


def _is_one_text(prompt: object) -> bool:
    return isinstance(prompt, str) or (isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str))
