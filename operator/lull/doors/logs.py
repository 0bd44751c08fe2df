"""JSON logs on standard output: ours, the standard library's and Kopf's, one shape for all."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict, Processor

    from lull.doors.access_log import Outlet

_NOISY: Final = ("httpx", "httpcore", "aiohttp.access", "asyncio", "kopf.objects")


def configure(level: str) -> None:
    """Send everything that is logged in this process to standard output, one JSON object a line."""
    shared: tuple[Processor, ...] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(["kopf_object"])],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_render),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        # One line per outcome is ours to write; a library's line per request or event is noise.
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def through(outlet: Outlet) -> Iterator[None]:
    """Have standard output written by an outlet while the block runs: nothing that is logged waits for its reader."""
    handlers = [
        one
        for one in logging.getLogger().handlers
        if isinstance(one, logging.StreamHandler) and one.stream is sys.stdout
    ]
    for handler in handlers:
        handler.setStream(outlet)
    try:
        yield
    finally:
        for handler in handlers:
            # A line that is lost is better than a process that does not end.
            if not outlet.is_stuck:
                handler.setStream(sys.stdout)


def _render(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()
