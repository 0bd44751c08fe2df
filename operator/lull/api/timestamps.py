"""RFC 3339, as Kubernetes writes it, to seconds and back."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_timestamp(text: str) -> float:
    """Seconds since the epoch; ValueError on anything else than RFC 3339."""
    return datetime.fromisoformat(text).timestamp()


def render_timestamp(seconds: float) -> str:
    """Whole seconds in UTC, like `metav1.Time`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
