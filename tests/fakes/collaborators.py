"""A gateway's collaborators, all real and with nothing to do: for what is tested without a server around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import structlog

from lull.core.answers import Answers
from lull.core.keys import Keyring
from lull.core.limits import Ledger
from lull.core.routing import RetryBudget
from lull.doors.access_log import AccessLog, Logged, Outlet
from lull.doors.gateway_metrics import GatewayMetrics
from lull.gateway.directory import Directory
from lull.gateway.engines import Engines
from lull.gateway.exchange import Gateway
from lull.gateway.lines import Lines
from lull.gateway.pipeline import queue_full
from lull.gateway.relay import Relays

if TYPE_CHECKING:
    from lull.settings import GatewaySettings


def _ignore(*_: Any) -> None: ...


def build_gateway(settings: GatewaySettings) -> Gateway:
    """A gateway that serves no model; the event loop must run, and is never waited for."""
    lines = Lines(lambda _key, _adapter: 0, on_go=_ignore, on_refused=_ignore, displaced=queue_full)
    return Gateway(
        settings=settings,
        directory=Directory(on_change=_ignore, on_lost=_ignore, on_gone=_ignore, on_adapter_gone=_ignore),
        lines=lines,
        engines=Engines(connect_seconds=1),
        relays=Relays(),
        metrics=GatewayMetrics(lines.demand),
        access_log=AccessLog(Outlet(1), Logged.OFF),
        tracer=None,
        log=structlog.get_logger(),
        residency=cast("Any", None),
        budget=RetryBudget(),
        answers=Answers(),
        keyring=Keyring(),
        ledger=Ledger(),
        tally=None,
    )
