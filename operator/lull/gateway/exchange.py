"""One request on its way through the pipeline, and what the steps share."""

from __future__ import annotations

import math
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    import structlog

    from lull.api.llmdeployment import LLMDeployment
    from lull.core.admission import Limits, Ticket
    from lull.core.affinity import Work
    from lull.core.answers import Answers
    from lull.core.keys import ApiKey, Keyring
    from lull.core.limits import Grant, Ledger
    from lull.core.routing import Candidate, RetryBudget
    from lull.doors.access_log import AccessLog
    from lull.doors.gateway_metrics import GatewayMetrics
    from lull.doors.tracing import Trace, Tracer
    from lull.doors.valkey import Tally
    from lull.gateway.directory import Directory
    from lull.gateway.engines import Engines
    from lull.gateway.lines import Lines
    from lull.gateway.relay import Outcome, Relay, Relays
    from lull.gateway.reply import Reply
    from lull.gateway.residency import Residency
    from lull.settings import GatewaySettings
    from lull.wire.openai import Call
    from lull.wire.usage import Usage

RECORDING_BYTES: Final = 1 << 20
"""An answer longer than this is not recorded."""


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

    NO_ADAPTER = "no_adapter"
    """The engine does not have the adapter any more."""
    NOT_CONNECTED = "not_connected"
    REFUSED = "refused"
    """The engine said that it takes no work: busy, or shutting down."""
    BROKEN = "broken"
    """The engine had the request and failed."""


class Defer(Exception):  # noqa: N818  a turn in the road
    """A step has to wait for something; the pipeline waits, and goes on with the step after it."""

    def __init__(self, awaitable: Awaitable[None]) -> None:
        super().__init__()
        self.awaitable = awaitable


class _Always:
    """What every request comes to have.

    It has slots so that no more than thirty attributes are left to the object's dict. Beyond those Python keeps the
    dict apart from the object, and making and reading it costs more than twice as much.
    """

    __slots__ = (
        "answer_headers",
        "arrived_at",
        "body",
        "call",
        "headers",
        "limits",
        "method",
        "path",
        "reply",
        "request_id",
        "size",
        "tried",
        "work",
    )


class Exchange(_Always):
    """What is known about one request. What has no default is set by the step that finds it out."""

    # Defaults live on the class: a request sets only what concerns it, which is what making one costs.
    stage = Stage.RECEIVING
    call: Call
    is_parsed = False
    """`call` is set."""
    key: ApiKey | None = None
    """Where there is a known one."""
    deployment: LLMDeployment | None = None
    adapter = ""
    """The adapter that is asked for; empty where it is the model itself."""
    work: Work
    limits: Limits
    ticket: Ticket | None = None
    hold_seconds = 0.0
    """How long it may wait for capacity."""
    deadline = math.inf
    """Until when it may wait for capacity."""
    candidate: Candidate | None = None
    relay: Relay | None = None
    """The try that is under way."""
    task: asyncio.Task[None] | None = None
    """What a step waits for."""
    grant: Grant | None = None
    """What the limits have set aside for it."""
    usage: Usage | None = None
    recording: bytearray | None = None
    slot = b""
    """Under which the response cache keeps the answer that is being recorded."""
    tap: Callable[[bytes], bytes] | None = None
    """Sees every run of whole events of a stream, and says what the client gets instead."""
    served = ""
    """The model that served, where it is not the one that was asked for."""
    first_byte_seconds = math.inf
    idle_seconds = math.inf
    total_due = math.inf
    """When the answer must be complete, whatever engines it takes."""
    due = math.inf
    """When the present stage has lasted for too long."""
    next_beat = math.inf
    """When a stream that waits gets its next comment."""
    beat_seconds = 0.0
    cache = ""
    """`hit` or `miss`, where the response cache was asked."""
    ended_at = 0.0
    held_since = 0.0
    held_seconds = 0.0
    tries = 0
    broken = 0
    """Tries on which an engine failed with the request in hand."""
    events = 0
    """Events of a stream that were passed on."""
    client_left = False
    is_cut = False
    """The gateway stopped before the answer had ended."""
    is_over = False
    error = ""
    reason = ""
    """The code of the refusal that ended it."""
    trace: Trace | None = None

    def __init__(
        self,
        method: str,
        path: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        *,
        reply: Reply,
        arrived_at: float,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.size = len(body)
        self.reply = reply
        self.request_id = reply.request_id
        self.answer_headers = reply.extra_headers
        self.arrived_at = arrived_at
        self.tried: set[str] = set()

    @property
    def begun_at(self) -> float | None:
        """When the first byte that is not a comment was sent."""
        return self.reply.begun_at

    def find_header(self, name: bytes) -> bytes | None:
        """The value of the first header of that lower-case name."""
        for one, value in self.headers:
            if one == name:
                return value
        return None


class Gateway:
    """The collaborators of the steps."""

    outcome: Outcome

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        directory: Directory,
        lines: Lines,
        engines: Engines,
        relays: Relays,
        metrics: GatewayMetrics,
        access_log: AccessLog,
        tracer: Tracer | None,
        log: structlog.stdlib.BoundLogger,
        residency: Residency,
        budget: RetryBudget,
        answers: Answers,
        keyring: Keyring,
        ledger: Ledger,
        tally: Tally | None,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.lines = lines
        self.engines = engines
        self.relays = relays
        self.metrics = metrics
        self.counts = metrics.counts
        self.access_log = access_log
        self.tracer = tracer
        """None where nobody collects traces."""
        self.log = log
        self.residency = residency
        self.budget = budget
        self.answers = answers
        self.keyring = keyring
        self.ledger = ledger
        self.tally = tally
        """Limits that are shared with other gateways."""
        self.exchanges: set[Exchange] = set()
        """Requests that are not over."""
        self.pending_bytes = 0
        """Bodies in memory, of all requests that are not over."""
        self.serving = False
        """Clients can connect."""
        self.stopping = False
