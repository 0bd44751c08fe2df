"""`lull fetch-adapters`: the sidecar of an engine pod that fetches adapters."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from lull.doors import logs, serving
from lull.fetcher.shelf import Shelf

if TYPE_CHECKING:
    from lull.fetcher.adapters import Wanted


def run(root: Path, port: int, wanted: Wanted, credentials: Path | None) -> None:
    """Serve until told to stop."""
    os.umask(0o022)  # the engine may run as another user
    logs.configure("info")
    root.mkdir(parents=True, exist_ok=True)
    asyncio.run(_run(root, port, wanted, credentials))


async def _run(root: Path, port: int, wanted: Wanted, credentials: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    shelf = Shelf(root, lambda source, target: _bring(source, target, credentials), wanted)
    async with asyncio.TaskGroup() as group:
        group.create_task(shelf.run(stop))
        # The list must be complete before anybody asks for it.
        await asyncio.sleep(0)
        async with serving.serve(shelf.answer, port):
            await stop.wait()


async def _bring(source: str, target: Path, credentials: Path | None) -> None:
    """Fetch as `lull fetch` does, with credentials as they are now: a Secret that is corrected counts at once."""
    from lull.cli.fetch import log, read_options
    from lull.fetcher.fetch import fetch
    from lull.fetcher.sources import parse_source

    await fetch(parse_source(source), target, read_options(credentials), log)
