"""What holds for every test."""

from __future__ import annotations

import asyncio
import os

from hypothesis import settings

# No deadline: the machine that runs the tests is shared.
settings.register_profile("quick", max_examples=50, stateful_step_count=30, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.register_profile("fuzz", max_examples=5000, deadline=None, print_blob=True)
# `pytest --hypothesis-profile=thorough` looks harder, and so does the environment.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure() -> None:
    # Before Python 3.14, asking for the event loop when none was ever set makes one, which pytest-asyncio then leaves
    # open; saying that there is none keeps it from being made.
    asyncio.set_event_loop(None)
