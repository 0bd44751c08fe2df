"""`lull gateway`: the OpenAI-compatible door in front of the engines."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from pydantic import ValidationError

from lull.api.llmdeployment import render_validation_error
from lull.core.documents import render_finding
from lull.doors import logs, loop
from lull.gateway import server, sources, workers
from lull.gateway.config import InvalidConfig, load_config
from lull.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from lull.gateway.sources import Source


@dataclass(frozen=True, slots=True)
class Place:
    """What a supervisor gives to one of its processes."""

    worker: int
    listen: int
    """Descriptor of its socket for clients."""
    admin: Path


def run(place: Place | None) -> None:
    """Serve what the cluster has."""
    try:
        settings = GatewaySettings()
    except ValidationError as error:
        sys.exit(render_validation_error(error, root="settings"))
    _run(settings, sources.connect(settings), place, ())


def run_file(path: Path, place: Place | None) -> None:
    """Serve what a file lists."""
    # One that is started anew while the file is wrong goes on with what the others have.
    kept = place.admin.with_name("config.yaml") if place is not None else None
    with _complaining(path):
        source = sources.FileSource(path, kept=kept)
    _run(source.config.settings, nullcontext(source), place, ("--config", str(path)))


def check_file(path: Path) -> None:
    """Say what a file serves, or by line what is wrong with it."""
    with _complaining(path):
        config = load_config(path)
    engines = sum(len(model.addresses) for model in config.models)
    print(f"{path}: {len(config.models)} models on {engines} engines, {len(config.keyring)} keys")


def _run(
    settings: GatewaySettings,
    opened: AbstractAsyncContextManager[Source],
    place: Place | None,
    options: tuple[str, ...],
) -> None:
    logs.configure(settings.log_level)
    count = workers.count_workers(settings.workers)
    if place is not None:
        structlog.contextvars.bind_contextvars(worker=place.worker)
        listening = server.Listening(socket.socket(fileno=place.listen), place.admin)
        loop.run(server.run(_share(settings, count), opened, listening=listening))
        return
    for port in (settings.port, settings.admin_port):
        try:
            server.bind(port).close()
        except OSError as error:
            sys.exit(f"port {port}: {error.strerror}")
    if count > 1:
        asyncio.run(workers.run(settings, (sys.executable, "-m", "lull", "gateway", *options), count))
    else:
        loop.run(server.run(settings, opened))


def _share(settings: GatewaySettings, count: int) -> GatewaySettings:
    """One process's part of what is limited for all of them."""
    return settings.model_copy(
        update={
            "max_pending_bytes": max(1, settings.max_pending_bytes // count),
            "max_connections": max(1, settings.max_connections // count),
        }
    )


@contextmanager
def _complaining(path: Path) -> Iterator[None]:
    try:
        yield
    except InvalidConfig as error:
        sys.exit("\n".join(render_finding(str(path), finding) for finding in error.findings))
