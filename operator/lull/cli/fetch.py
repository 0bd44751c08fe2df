"""`lull fetch`: the first container of an engine pod."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lull.core.sizing import parse_wishes
from lull.doors import clock
from lull.fetcher.failures import Failed
from lull.fetcher.options import Options, parse_endpoints, read_credentials
from lull.fetcher.snapshot import Weights
from lull.fetcher.sources import parse_source

if TYPE_CHECKING:
    from lull.fetcher.sources import Source

TERMINATED = 128 + signal.SIGTERM


def run(
    source: str,
    to: Path,
    *,
    credentials: Path | None = None,
    check: str | None = None,
    weights: str = Weights.SAFETENSORS,
) -> int:
    """Fetch, and return the exit code.

    On failure the last line on stderr is one sentence: Kubernetes shows it as the container's termination message.
    """
    os.umask(0o022)  # the engine runs as another user
    try:
        options = replace(read_options(credentials, check), weights=_read_weights(weights))
        return asyncio.run(_until_told_to_stop(parse_source(source), to, options))
    except Failed as failure:
        print(failure, file=sys.stderr, flush=True)
        return failure.exit_code


def read_options(credentials: Path | None, check: str | None = None) -> Options:
    """Read what this process was told, and the credentials as they are now."""
    try:
        wishes = parse_wishes(check) if check is not None else None
    except ValueError as error:
        raise Failed(f"--check cannot be read: {error}.") from error
    return Options(parse_endpoints(os.environ), read_credentials(credentials, os.environ), wishes)


def _read_weights(text: str) -> Weights:
    try:
        return Weights(text)
    except ValueError:
        raise Failed(f"--weights cannot be {text!r}, but {', '.join(Weights)}.") from None


def log(event: str, *, level: str = "info", **fields: object) -> None:
    """Write a line, whole, for whoever reads the container's log."""
    line = {"event": event, **fields, "level": level, "timestamp": clock.render_time(clock.wall())}
    print(json.dumps(line), file=sys.stderr, flush=True)


async def _until_told_to_stop(source: Source, target: Path, options: Options) -> int:
    # Late, for the sake of a first line of output within a tenth of a second.
    from lull.fetcher.fetch import fetch

    # As a container's first process it would not be ended by a signal that it does not handle.
    task = asyncio.ensure_future(fetch(source, target, options, log))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        print("Fetching was stopped before it was complete.", file=sys.stderr, flush=True)
        return TERMINATED
    return 0
