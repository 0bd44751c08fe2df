from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from lull.gateway.outbox import LONGEST_SPELL, MOST_WAITING, SHORTEST_SPELL, WORTH_WAITING, Outbox

if TYPE_CHECKING:
    from collections.abc import Iterable


class Line:
    """A connection that remembers what was written to any of them."""

    def __init__(self, name: str, written: list[tuple[str, bytes]]) -> None:
        self.name = name
        self.written = written
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written.append((self.name, data))

    def is_closing(self) -> bool:
        return self.is_closed


class Lines:
    """Several connections, and the outbox that they share."""

    def __init__(self) -> None:
        self.written: list[tuple[str, bytes]] = []
        self.lines = {name: Line(name, self.written) for name in "ab"}
        self.outbox = Outbox()

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.outbox.write(cast("asyncio.Transport", self.lines[name]), piece)

    async def fill_turns(self, writes: int = WORTH_WAITING) -> None:
        """Write much in a turn, until turns are waited for; forget what was written."""
        self.write("a", [b"x"] * SHORTEST_SPELL)
        self.write("a", [b"x"] * writes)
        await asyncio.sleep(0)
        self.written.clear()


async def test_little_goes_out_at_once() -> None:
    lines = Lines()

    for _ in range(SHORTEST_SPELL):
        lines.write("a", [b"1"])
        assert lines.written.pop() == ("a", b"1")
        await asyncio.sleep(0)


async def test_much_goes_out_at_the_end_of_its_turn_in_its_order() -> None:
    lines = Lines()
    await lines.fill_turns()

    lines.write("a", [b"1"])
    lines.write("b", [b"2"])
    lines.write("a", [b"3"])
    assert lines.written == []
    await asyncio.sleep(0)

    assert lines.written == [("a", b"1"), ("b", b"2"), ("a", b"3")]


async def test_no_more_than_so_many_wait_for_each_other() -> None:
    lines = Lines()
    await lines.fill_turns()

    lines.write("a", [b"1"] * (2 * MOST_WAITING + 1))

    assert len(lines.written) == 2 * MOST_WAITING
    await asyncio.sleep(0)
    assert len(lines.written) == 2 * MOST_WAITING + 1


async def test_what_is_flushed_comes_before_what_follows() -> None:
    lines = Lines()
    await lines.fill_turns()

    lines.write("a", [b"1"])
    lines.outbox.flush()
    lines.write("a", [b"2"])
    assert lines.written == [("a", b"1")]
    await asyncio.sleep(0)

    assert lines.written == [("a", b"1"), ("a", b"2")]


async def test_a_connection_that_closed_meanwhile_gets_nothing_and_keeps_nobody() -> None:
    lines = Lines()
    await lines.fill_turns()

    lines.write("a", [b"1"])
    lines.write("b", [b"2"])
    lines.lines["a"].is_closed = True
    await asyncio.sleep(0)

    assert lines.written == [("b", b"2")]


async def test_turns_with_little_in_them_are_waited_for_ever_more_seldom() -> None:
    lines = Lines()
    waited = 0

    for _ in range(20 * LONGEST_SPELL):
        lines.write("a", [b"1"])
        waited += not lines.written
        await asyncio.sleep(0)
        assert lines.written == [("a", b"1")]
        lines.written.clear()

    assert waited < 30
