"""A usage as tests compare it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lull.wire.usage import Usage


def told(usage: Usage | None) -> tuple[int, int, int] | None:
    """Tokens of the prompt, of the answer, and of those that the engine had already."""
    return None if usage is None else (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
