"""One request on its way through the pipeline, and what the steps share."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import TYPE_CHECKING

from lull.core.routing import RetryBudget
from lull.gateway.attempts import Attempts

if TYPE_CHECKING:
    import aiohttp
    import structlog
    from aiohttp import web

    from lull.api.llmdeployment import LLMDeployment
    from lull.core.admission import Limits, Ticket
    from lull.core.routing import Candidate
    from lull.doors.gateway_metrics import GatewayMetrics
    from lull.gateway.directory import Directory
    from lull.gateway.lines import Lines
    from lull.gateway.reply import Reply
    from lull.gateway.residency import Residency
    from lull.settings import GatewaySettings
    from lull.wire.openai import Call


@unique
class Stage(StrEnum):
    """How far a request came; the label of what was aborted."""

    RECEIVING = "receiving"
    HELD = "held"
    WAITING = "waiting"
    """An engine has it and has sent nothing yet."""
    STREAMING = "streaming"


@unique
class Failure(StrEnum):
    """Why a try failed before the first byte."""

    NO_ENDPOINT = "no_endpoint"
    """It went away between being let go and being picked."""
    NO_ADAPTER = "no_adapter"
    """The engine does not have the adapter any more."""
    NOT_CONNECTED = "not_connected"
    REFUSED = "refused"
    """The engine said that it takes no work: busy, or shutting down."""
    BROKEN = "broken"
    """The engine had the request and failed."""


class TryAgain(Exception):  # noqa: N818  a turn in the road
    """Nothing was sent to the client yet, so another endpoint may have the request."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail


@dataclass(slots=True)
class Exchange:
    """What is known about one request. Fields without a default are set by the step that finds them out."""

    request: web.BaseRequest
    path: str
    request_id: str
    arrived_at: float
    reply: Reply
    next_beat: float
    """When a stream that still waits gets its next comment, on the event loop's clock."""

    stage: Stage = Stage.RECEIVING
    size: int = 0
    body: bytes = b""
    call: Call | None = None
    deployment: LLMDeployment | None = None
    adapter: str = ""
    """The adapter that is asked for; empty where it is the model itself."""
    limits: Limits = field(init=False)
    ticket: Ticket | None = None
    deadline: float = field(init=False)
    """Until when it may wait for capacity."""
    candidate: Candidate = field(init=False)
    held_seconds: float = 0.0
    tries: int = 0
    broken: int = 0
    """Tries on which an engine failed with the request in hand."""
    tried: set[str] = field(default_factory=set)
    client_left: bool = False
    error: str = ""


@dataclass(slots=True)
class Gateway:
    """The collaborators of the steps."""

    settings: GatewaySettings
    directory: Directory
    lines: Lines
    session: aiohttp.ClientSession
    metrics: GatewayMetrics
    log: structlog.stdlib.BoundLogger
    residency: Residency
    budget: RetryBudget = field(default_factory=RetryBudget)
    attempts: Attempts = field(default_factory=Attempts)
    pending_bytes: int = 0
    """Bodies in memory, of all requests that are not answered yet."""
    serving: bool = False
    """Clients can connect."""
    stopping: bool = False
