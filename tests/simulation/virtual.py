"""Asyncio on a clock that stands still while anything can be done, and then jumps to what is due next."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from lull.doors import clock

T = TypeVar("T")

MONDAY = 1_767_571_200.0
"""2026-01-05 00:00 UTC, where every run begins."""


class _Selector(selectors.SelectSelector):
    """Waits for nobody: nothing here comes over a socket."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nobody will ever act"
        self._advance(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_Selector(self._advance))

    def time(self) -> float:
        return self._now

    def _advance(self, seconds: float) -> None:
        self._now += max(seconds, 0.0)


def run(main: Callable[[], Coroutine[Any, Any, T]], seed: int) -> T:
    """Run on virtual time; the same seed gives the same run."""
    before = random.getstate()
    random.seed(seed)
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        patch.setattr(clock, "monotonic", loop.time)
        patch.setattr(clock, "wall", lambda: MONDAY + loop.time())
        try:
            return runner.run(main())
        finally:
            random.setstate(before)
