"""Addresses as URLs spell them."""

from __future__ import annotations


def render_origin(host: str, port: int) -> str:
    """The URL of what listens there; an IPv6 address stands in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
