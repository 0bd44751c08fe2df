"""What is to be written, put together where much of it comes at once.

A write wakes whoever reads, and the way through the kernel is long. When several follow each other the reader is awake
already and the way is known, so that each takes two thirds of the time. What is written in one turn of the event loop
therefore goes out at its end, where that is worth the other turn that it takes. That is so for requests and for whole
answers; parts of streams come large, or few at a time, and gain nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final

WORTH_WAITING: Final = 4
"""Fewer in a turn go out at once."""
MOST_WAITING: Final = 64
"""No more wait for each other: the first of them has waited for some milliseconds by then."""
SHORTEST_SPELL: Final = 16
LONGEST_SPELL: Final = 1024
"""Of writes that go out at once before the next turn is looked at, twice as many each time that it was not worth it."""


class Outbox:
    """Writes to many connections, those to each in their order.

    How many belong to one turn is known only to those that wait for its end, so a turn is looked at now and then.
    """

    __slots__ = ("_at_once", "_call_soon", "_is_due", "_spell", "_turn", "_waiting")

    def __init__(self) -> None:
        self._call_soon = asyncio.get_running_loop().call_soon
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self._turn = 0
        """Written or waiting since the turn began."""
        self._is_due = False
        """The end of the turn will be told."""
        self._spell = SHORTEST_SPELL
        self._at_once = SHORTEST_SPELL

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send this soon, and after what was to be sent before."""
        if self._at_once:
            self._at_once -= 1
            transport.write(data)
            return
        self._waiting.append((transport, data))
        self._turn += 1
        if not self._is_due:
            self._is_due = True
            self._call_soon(self._end_turn)
        elif len(self._waiting) >= MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Send what waits: a connection is to be closed, or something to be sent at once that may be behind it."""
        waiting = self._waiting
        if waiting:
            self._waiting = []
            for transport, data in waiting:
                if not transport.is_closing():
                    transport.write(data)

    def _end_turn(self) -> None:
        self.flush()
        if self._turn < WORTH_WAITING:
            self._spell = self._at_once = min(2 * self._spell, LONGEST_SPELL)
        else:
            self._spell = SHORTEST_SPELL
        self._turn = 0
        self._is_due = False
