"""`lull fetch`: the first container of an engine pod."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lull.doors import clock
from lull.fetcher.failures import Failed

if TYPE_CHECKING:
    from lull.fetcher.fetch import Options
    from lull.fetcher.snapshot import HubSource

DEFAULT_ENDPOINT = "https://huggingface.co"
TERMINATED = 128 + signal.SIGTERM


def run(source: str, to: str) -> int:
    """Fetch, and return the exit code.

    On failure the last line on stderr is one sentence: Kubernetes shows it as the container's termination message.
    """
    os.umask(0o022)  # the engine runs as another user
    try:
        return asyncio.run(_run(source, Path(to)))
    except Failed as failure:
        print(failure, file=sys.stderr, flush=True)
        return failure.exit_code


async def _run(source: str, target: Path) -> int:
    # Imported after the source is known to need fetching, and late for the sake of `lull --help`.
    from lull.fetcher.fetch import Options
    from lull.fetcher.snapshot import parse_source

    hub_source = parse_source(source)
    options = Options(
        endpoint=(os.environ.get("HF_ENDPOINT", "").strip() or DEFAULT_ENDPOINT).rstrip("/"),
        token=os.environ.get("HF_TOKEN", "").strip() or None,
    )
    return await _until_told_to_stop(hub_source, target, options)


async def _until_told_to_stop(source: HubSource, target: Path, options: Options) -> int:
    from lull.fetcher.fetch import fetch

    # As a container's first process it would not be ended by a signal that it does not handle.
    task = asyncio.ensure_future(fetch(source, target, options, _log))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        print("Fetching was stopped before it was complete.", file=sys.stderr, flush=True)
        return TERMINATED
    return 0


def _log(event: str, *, level: str = "info", **fields: object) -> None:
    line = {"event": event, **fields, "level": level, "timestamp": clock.render_time(clock.wall())}
    print(json.dumps(line), file=sys.stderr, flush=True)
