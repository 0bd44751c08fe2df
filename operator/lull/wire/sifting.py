"""Takes the usage that only the gateway asked for out of a stream again, so that the client sees what it would have.

vLLM ends such a stream with one chunk more: no choices, the usage, and the fingerprint of the system. Without it the
fingerprint is where a choice ends. So those ends wait for that chunk, which follows the last of them at once, unless
the fingerprint is known from an earlier stream of the same engine.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

FINISHED: Final = b'"finish_reason":"'
"""What the end of a choice is known by; inside a JSON string these quotes are escaped."""

_FINGERPRINT: Final = "system_fingerprint"
_MAX_HELD_BYTES: Final = 1 << 20


class Sifter:
    """Goes through one stream, event by event."""

    def __init__(self, fingerprint: bytes | None = None, *, leaves_each: bool = False) -> None:
        """`leaves_each`: the usage of a chunk that has choices is for somebody else to take out."""
        self.fingerprint = fingerprint
        """As JSON; nothing where the engine has none, and None while that is not known."""
        self.removed = 0
        """Events that were taken out."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._is_forced = False
        self._leaves_each = leaves_each

    @property
    def is_holding(self) -> bool:
        return bool(self._held)

    def sift(self, block: bytes, content: dict[str, Any] | None, *, is_end: bool) -> bytes:
        """What to pass on once this event has come; `content` is its JSON, where it was worth reading."""
        usage = None if content is None else content.get("usage")
        if content is not None and isinstance(usage, dict) and not self._is_forced:
            if not content.get("choices"):
                fingerprint = content.get(_FINGERPRINT)
                self.removed += 1
                self.fingerprint = b"" if fingerprint is None else orjson.dumps(fingerprint)
                return self._release()
            # Every chunk has a usage, and nobody asked for it: the engine does this whether it is asked to or not.
            self._is_forced = not self._leaves_each
        if self._is_forced or is_end:
            return self._release() + block
        is_finish = block.find(FINISHED) >= 0
        if self._held or (is_finish and self.fingerprint is None):
            self._held.append(block)
            self._held_bytes += len(block)
            return self._release() if self._held_bytes > _MAX_HELD_BYTES else b""
        return self._stamp(block) if is_finish else block

    def _release(self) -> bytes:
        released = b"".join(self._stamp(block) if FINISHED in block else block for block in self._held)
        self._held.clear()
        self._held_bytes = 0
        return released

    def _stamp(self, block: bytes) -> bytes:
        """Write the fingerprint where vLLM writes it: at the end of the chunk."""
        at = block.rfind(b"}")
        if not self.fingerprint or at < 0:
            return block
        return block[:at] + b',"' + _FINGERPRINT.encode() + b'":' + self.fingerprint + block[at:]
