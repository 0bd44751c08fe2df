"""The HTTP of engines and sidecars: what a replica has, and telling it what to do. Nothing is decided here."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from lull.core.adapters import Fetch, Forget, Holding, Load, Unload, parse_loaded, parse_shelf, record_refusal
from lull.doors import clock, metrics
from lull.doors.http import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from lull.core.adapters import Move, Replica, Setback, Shelved
    from lull.doors.http import Answer, Http

log = structlog.get_logger(__name__)

T = TypeVar("T")

_ASK_SECONDS: Final = 5.0
_LOAD_SECONDS: Final = 120.0
"""Loading is quick, but it waits for the step that the engine computes."""


async def observe(http: Http, replica: Replica) -> Holding:
    """Ask the sidecars, and the engine where it is ready."""

    async def ask_engine() -> Mapping[str, str] | None:
        return await _ask(http, f"{replica.engine}/v1/models", parse_loaded) if replica.is_ready else None

    async def ask_shelves() -> list[Mapping[str, Shelved] | None]:
        return await asyncio.gather(*(_ask(http, f"{shelf}/adapters", parse_shelf) for shelf in replica.shelves))

    loaded, shelves = await asyncio.gather(ask_engine(), ask_shelves())
    return Holding(tuple(shelves), loaded)


async def execute(
    http: Http, replica: Replica, moves: Collection[Move], setbacks: Mapping[str, Setback]
) -> Mapping[str, Setback]:
    """Carry out moves one after another; what the engine refused, by adapter. One that does not answer ends them."""
    met: dict[str, Setback] = {}
    try:
        for move in moves:
            answer = await _carry_out(http, replica, move)
            result = "ok" if answer.status < 300 else "refused"
            metrics.ADAPTER_MOVES.labels(type(move).__name__.lower(), result).inc()
            if isinstance(move, Load):
                identity = move.adapter.id
                setback = record_refusal(setbacks.get(identity), answer.status, answer.content, now=clock.monotonic())
                if setback is not None:
                    met[identity] = setback
            log.info("adapter moved", pod=replica.pod, move=repr(move), status=answer.status)
    except Unreachable as error:
        metrics.ADAPTER_MOVES.labels(type(move).__name__.lower(), "unreachable").inc()
        log.warning("replica not reached", pod=replica.pod, move=repr(move), error=str(error))
    return met


async def _carry_out(http: Http, replica: Replica, move: Move) -> Answer:
    match move:
        case Fetch(shelf, adapter):
            url = f"{replica.shelves[shelf]}/adapters/{adapter.id}"
            return await _tell(http, "PUT", url, {"name": adapter.name, "source": adapter.source})
        case Forget(shelf, identity):
            return await _tell(http, "DELETE", f"{replica.shelves[shelf]}/adapters/{identity}", {})
        case Unload(name):
            return await _tell(http, "POST", f"{replica.engine}/v1/unload_lora_adapter", {"lora_name": name})
        case Load(adapter, path, in_place):
            load = {"lora_name": adapter.name, "lora_path": path}
            anew = {"load_inplace": True} if in_place else {}
            return await _tell(http, "POST", f"{replica.engine}/v1/load_lora_adapter", {**load, **anew})


async def _tell(http: Http, method: str, url: str, body: Mapping[str, object]) -> Answer:
    return await http.ask(method, url, body=json.dumps(body).encode(), deadline=_LOAD_SECONDS)


async def _ask(http: Http, url: str, parse: Callable[[bytes], T]) -> T | None:
    """What is there; None where nobody answers, or not as he should."""
    try:
        return parse(await http.get(url, query={}, deadline=_ASK_SECONDS))
    except (Unreachable, ValueError) as error:
        log.debug("no answer", url=url, error=str(error))
        return None
