"""`lull gateway`: the OpenAI-compatible door in front of the engines."""

from __future__ import annotations

import sys

import uvloop
from pydantic import ValidationError

from lull.api.llmdeployment import render_validation_error
from lull.doors import logs
from lull.gateway import server
from lull.settings import GatewaySettings


def run() -> None:
    try:
        settings = GatewaySettings()
    except ValidationError as error:
        sys.exit(render_validation_error(error, root="settings"))
    logs.configure(settings.log_level)
    uvloop.run(server.run(settings))
