"""What a scaler sees of a fleet that somebody describes in a few words."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from lull.core.simulation.fleet import View


def make_view(now: float = 0.0, *, asked: int = 1, waiting: int = 0, running: int = 0, **seen: Any) -> View:
    """All replicas that were asked for are ready; what is not said is nothing."""
    nothing = {field.name: 0 for field in fields(View)}
    known = {
        "wall": now,
        "ready": asked,
        "ready_at": None,
        "in_flight": waiting + running,
        "kv_usage": (0.0,) * asked,
        "queue_by_replica": (0,) * asked,
        "reading_by_replica": (False,) * asked,
        "ttft_p90": None,
        "tpot_p90": None,
        "cold_start": None,
        **seen,
    }
    return View(**{**nothing, **known, "now": now, "asked": asked, "waiting": waiting, "running": running})
