"""The keys of clients, as one named Secret holds them: read again whenever it changes."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import structlog

from lull.core.keys import Keyring, build_keyring
from lull.doors.kube import SECRETS, reflect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lull.doors.kube import Kube, WatchEvent


async def watch(connection: Kube, on_change: Callable[[Keyring], None], *, namespace: str, name: str) -> None:
    """Tell of every keyring, for ever.

    A Secret that is not there holds no keys. While the API server is away, nothing is told: the last keyring stays.
    """
    log = structlog.get_logger("lull.gateway")
    is_told = False

    def change(event: WatchEvent) -> None:
        nonlocal is_told
        is_told = True
        entries = {} if event.type == "DELETED" else decode(event.object.get("data") or {})
        keyring, wrong = build_keyring(entries)
        for id_, why in wrong.items():
            log.warning("key not readable", secret=f"{namespace}/{name}", key=id_, error=why)
        log.info("keys read", secret=f"{namespace}/{name}", keys=len(keyring))
        on_change(keyring)

    def synced() -> None:
        if not is_told:
            on_change(Keyring())

    await reflect(connection, SECRETS, change, namespace=namespace, fields=f"metadata.name={name}", on_synced=synced)


def decode(entries: Mapping[str, str]) -> dict[str, object]:
    """What a Secret's `data` says; an entry that cannot be decoded is left for the keyring to complain about."""
    return {id_: _decode(content) for id_, content in entries.items()}


def _decode(content: str) -> bytes | None:
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        return None
