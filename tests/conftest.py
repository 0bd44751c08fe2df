"""What holds for every test."""

from __future__ import annotations

import asyncio

from hypothesis import settings

# No deadline: the machine that runs the tests is shared.
settings.register_profile("quick", max_examples=50, stateful_step_count=30, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
# `pytest --hypothesis-profile=thorough` looks harder.
settings.load_profile("quick")


def pytest_configure() -> None:
    # Before Python 3.14, asking for the event loop when none was ever set makes one, which pytest-asyncio then leaves
    # open; saying that there is none keeps it from being made.
    asyncio.set_event_loop(None)
