"""The list of prices in a file that Kubernetes mounts, read again when it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from lull.core.prices import PriceList, parse_prices
from lull.doors import clock

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 10.0
"""Seconds between two looks at the file."""
_MOST_BYTES: Final = 1 << 20
"""What a ConfigMap holds."""


class Prices:
    """What the file said last. One that cannot be read changes nothing, and the log says why."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._list = PriceList()
        self._text: str | None = None
        self._problem = ""
        self._looked_at: float | None = None

    def list(self) -> PriceList:
        """The prices; the file is looked at now and then."""
        now = clock.monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._read()
        return self._list

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                text = file.read(_MOST_BYTES).decode()
            if text == self._text:
                return
            self._list, self._text, self._problem = parse_prices(text), text, ""
        except (OSError, ValueError) as error:
            # Said once, and not at every look.
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning("prices not read", path=str(self._path), error=self._problem)
        else:
            log.info("prices read", path=str(self._path), products=len(self._list.accelerators))
