"""What holds for every test."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    # Before Python 3.14, asking for the event loop when none was ever set makes one, which pytest-asyncio then leaves
    # open; saying that there is none keeps it from being made.
    asyncio.set_event_loop(None)
