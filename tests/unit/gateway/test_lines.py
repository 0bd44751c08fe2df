from __future__ import annotations

import asyncio

from lull.api.llmdeployment import Key
from lull.core.admission import Limits
from lull.gateway.exchange import Exchange
from lull.gateway.lines import Lines
from lull.wire.openai import Refusal

HERE, THERE = Key("team-a", "llama"), Key("team-a", "small")
LIMITS = Limits(max_held=1, max_held_bytes=100, hold_seconds=60.0)


def request() -> Exchange:
    exchange = Exchange.__new__(Exchange)
    exchange.size = 10
    return exchange


class TestWhoWentOn:
    """What was decided of a place in line is told in a later turn; by then the request may be at another model."""

    async def test_is_not_let_go_for_the_place_that_it_left(self) -> None:
        room = 0
        gone: list[Exchange] = []
        lines = Lines(
            lambda _key, _adapter: room,
            on_go=gone.append,
            on_refused=lambda _exchange, _refusal: None,
            displaced=lambda: Refusal(429, "full"),
        )
        exchange = request()
        exchange.ticket, _ = lines.arrive(exchange, HERE, LIMITS)
        room = 1
        lines.release(HERE)
        lines.leave(exchange.ticket)
        exchange.ticket, _ = lines.arrive(exchange, THERE, LIMITS)

        await asyncio.sleep(0)

        assert gone == []

    async def test_is_not_refused_for_it_either(self) -> None:
        refused: list[Exchange] = []
        lines = Lines(
            lambda _key, _adapter: 0,
            on_go=lambda _exchange: None,
            on_refused=lambda exchange, _refusal: refused.append(exchange),
            displaced=lambda: Refusal(429, "full"),
        )
        exchange = request()
        exchange.ticket, _ = lines.arrive(exchange, HERE, LIMITS)
        lines.turn_away(HERE, lambda: Refusal(404, "gone"))
        lines.leave(exchange.ticket)
        exchange.ticket, _ = lines.arrive(exchange, THERE, LIMITS)

        await asyncio.sleep(0)

        assert refused == []

    async def test_whoever_stayed_is_told(self) -> None:
        refused: list[Exchange] = []
        lines = Lines(
            lambda _key, _adapter: 0,
            on_go=lambda _exchange: None,
            on_refused=lambda exchange, _refusal: refused.append(exchange),
            displaced=lambda: Refusal(429, "full"),
        )
        exchange = request()
        exchange.ticket, _ = lines.arrive(exchange, HERE, LIMITS)
        lines.turn_away(HERE, lambda: Refusal(404, "gone"))

        await asyncio.sleep(0)

        assert refused == [exchange]
