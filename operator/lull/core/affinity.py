"""What a request is to an engine: tokens to read, tokens to write, and the blocks of text that it may have read before.

An engine keeps what it has read (the KV cache), and reads a prompt only from where it differs from all that it kept.
A chain of hashes over the text, a block at a time, tells how much two prompts have in common without keeping either:
the hash of a block covers everything before it, so equal hashes mean equal beginnings. Every gateway, in every process
and on every machine, computes the same chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol
from zlib import crc32

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

BYTES_PER_TOKEN: Final = 4
"""A rule of thumb for English (OpenAI, "What are tokens and how to count them?"). Other scripts need more tokens for a
character and more bytes as well. Only the proportion between requests matters here: quotas count the engine's own."""
MEDIA_TOKENS: Final = 1024
"""What a picture comes to, whatever its bytes: from 576 (LLaVA, 336 pixels square) to some thousands (Qwen2-VL, full size)."""
EXPECTED_OUTPUT: Final = 256
"""Tokens that an answer has where it may have more: 211 on average in Azure's conversations of 2023, 343 in Mooncake's."""
BLOCK_BYTES: Final = 1024
"""256 tokens: what a mid-size GPU reads in some tens of milliseconds, and so the least that is worth a detour."""
MAX_BLOCKS: Final = 256
"""Prompts that begin with the same 64 k tokens are told apart no further."""

_READ_ONLY: Final = ("/embeddings", "/rerank", "/score", "/tokenize", "/detokenize", "/pooling", "/classify")
_SETTING: Final = ("tools", "system", "instructions")
"""What chat templates put before the messages."""
_CONTENT: Final = ("messages", "input", "prompt", "query", "documents", "text_1", "text_2")
_TEXTUAL: Final = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "tool_use", "tool_result"})
"""Types of parts of a message that are read as text; all others are media."""
_MEDIA_ENDS: Final = 2048


class Call(Protocol):
    """What is looked at of a request."""

    @property
    def path(self) -> str: ...
    @property
    def content(self) -> Mapping[str, Any]: ...
    @property
    def max_tokens(self) -> int | None: ...


class Work:
    """What a request asks of an engine."""

    __slots__ = ("blocks", "known", "output_tokens", "pending", "prompt_tokens", "writing")

    def __init__(self, prompt_tokens: int, output_tokens: int, blocks: tuple[int, ...] = ()) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        """As many as are to be expected."""
        self.blocks = blocks
        """A hash of each whole block of the prompt and all before it."""
        self.known = 0
        """Of the prompt's tokens, those that its engine was expected to have. This and what follows `routing` keeps."""
        self.pending = 0
        """Of the prompt's tokens, those that it has yet to read."""
        self.writing = 0
        """Of the answer's tokens, those that it has yet to write."""


def measure_work(call: Call, size: int, *, adapter: str = "") -> Work:
    """Estimate the work of a request whose body has so many bytes.

    An adapter changes what an engine makes of a text, so nothing is shared between adapters.
    """
    output = 0 if call.path.endswith(_READ_ONLY) else min(call.max_tokens or EXPECTED_OUTPUT, EXPECTED_OUTPUT)
    if size >= BLOCK_BYTES:
        try:
            text, tokens = _read(call.content)
        except orjson.JSONEncodeError:
            # Nested too deep, or a number that is too large: parsed it was, and an engine may take it.
            pass
        else:
            return Work(tokens, output, _chain(text, crc32(adapter.encode())))
    return Work(size // BYTES_PER_TOKEN, output)


def _chain(text: bytes, seed: int) -> tuple[int, ...]:
    # A mistaken hash costs the reading of one prompt, so 32 bits will do, and speed counts.
    view = memoryview(text)
    end = min(len(text) // BLOCK_BYTES, MAX_BLOCKS) * BLOCK_BYTES
    blocks = []
    for start in range(0, end, BLOCK_BYTES):
        seed = crc32(view[start : start + BLOCK_BYTES], seed)
        blocks.append(seed)
    return tuple(blocks)


def _read(content: Mapping[str, Any]) -> tuple[bytes, int]:
    """The text in the order in which a model reads it, and how many tokens it comes to.

    Each message is rendered by itself, so that a conversation that goes on begins with all of its earlier text.
    """
    pieces = [orjson.dumps(content[name]) for name in _SETTING if content.get(name)]
    spared = 0
    for name in _CONTENT:
        given = content.get(name)
        if not given:
            continue
        if not isinstance(given, list) or not isinstance(given[0], dict):
            pieces.append(orjson.dumps(given))
            if isinstance(given, list) and isinstance(given[0], int):
                spared += len(pieces[-1]) - len(given) * BYTES_PER_TOKEN
            continue
        for message in given:
            parts = message.get("content") if isinstance(message, dict) else None
            if not isinstance(parts, list):
                pieces.append(orjson.dumps(message))
                continue
            pieces.append(orjson.dumps(message.get("role")))
            for part in parts:
                piece = orjson.dumps(part)
                if isinstance(part, dict) and part.get("type", "text") not in _TEXTUAL:
                    piece = _shorten(piece)
                    spared += len(piece) - MEDIA_TOKENS * BYTES_PER_TOKEN
                pieces.append(piece)
    text = b"".join(pieces)
    return text, (len(text) - spared) // BYTES_PER_TOKEN


def _shorten(media: bytes) -> bytes:
    """What tells a picture from others: its length, where it begins and where it ends."""
    if len(media) <= 2 * _MEDIA_ENDS:
        return media
    return b"%d%b%b" % (len(media), media[:_MEDIA_ENDS], media[-_MEDIA_ENDS:])
