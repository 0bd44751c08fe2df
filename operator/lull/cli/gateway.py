"""`lull gateway`: the OpenAI-compatible door in front of the engines."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import uvloop
from pydantic import ValidationError

from lull.api.llmdeployment import render_validation_error
from lull.core.documents import render_finding
from lull.doors import logs
from lull.gateway import server, sources
from lull.gateway.config import InvalidConfig, load_config
from lull.settings import GatewaySettings

if TYPE_CHECKING:
    from pathlib import Path

    from lull.gateway.config import Config


def run() -> None:
    """Serve what the cluster has."""
    try:
        settings = GatewaySettings()
    except ValidationError as error:
        sys.exit(render_validation_error(error, root="settings"))
    logs.configure(settings.log_level)
    uvloop.run(server.run(settings, sources.connect(settings)))


def run_file(path: Path) -> None:
    """Serve what a file lists."""
    config = _load(path)
    logs.configure(config.settings.log_level)
    uvloop.run(server.run(config.settings, nullcontext(sources.FileSource(path, config))))


def check_file(path: Path) -> None:
    """Say what a file serves, or by line what is wrong with it."""
    config = _load(path)
    engines = sum(len(model.addresses) for model in config.models)
    print(f"{path}: {len(config.models)} models on {engines} engines, {len(config.keyring)} keys")


def _load(path: Path) -> Config:
    try:
        return load_config(path)
    except InvalidConfig as error:
        sys.exit("\n".join(render_finding(str(path), finding) for finding in error.findings))
