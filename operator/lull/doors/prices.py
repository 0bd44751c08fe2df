"""The list of prices in a file that Kubernetes mounts, read again when it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from lull.core.prices import PriceList, parse_prices
from lull.doors import clock

log = structlog.get_logger(__name__)

_EVERY: Final = 10.0
"""Seconds between two looks at the file."""
_MOST_BYTES: Final = 1 << 20
"""What a ConfigMap holds."""


class Prices:
    """What the file said last. One that cannot be read changes nothing, and the log says why."""

    def __init__(self, path: str) -> None:
        """An empty path means no prices."""
        self._path = Path(path) if path else None
        self._list = PriceList()
        self._text: str | None = None
        self._looked_at: float | None = None

    def list(self) -> PriceList:
        """The prices; the file is looked at now and then."""
        now = clock.monotonic()
        if self._path is not None and (self._looked_at is None or now - self._looked_at >= _EVERY):
            self._looked_at = now
            self._read(self._path)
        return self._list

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                text = file.read(_MOST_BYTES).decode()
            if text == self._text:
                return
            # Once for each text, right or wrong.
            self._text = text
            self._list = parse_prices(text)
        except (OSError, ValueError) as error:
            log.warning("prices not read", path=str(path), error=str(error))
        else:
            log.info("prices read", path=str(path), products=len(self._list.accelerators))
