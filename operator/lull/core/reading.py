"""How much of the time engines have prompts to read, as far as a gateway can tell.

It sees when a prompt was sent, and that it was read when the answer begins. Of an answer that does not stream it sees
the end only; and of what other gateways send it sees nothing. But an engine is a queue: where each request of it is
seen with the same chance, the odds that one of those seen is there are the odds that any is, times that chance (this is
exact where times are exponential). So shares are made whole, and those of several gateways put together, by their odds.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOK_SECONDS: Final = 5.0
"""A share is over so long at least."""
_FADING: Final = 0.8
"""Of what is known of the kinds of requests, at each look."""
_LEAST_SEEN: Final = 0.1
"""Where fewer of the answers stream, nothing is told from them."""
_TELLING: Final = 0.5
"""Without as many streams in memory, that nothing is read tells nothing."""


class Reading:
    """Prompts of one endpoint that are not read yet, as far as that shows."""

    __slots__ = ("_seconds", "_since", "_unread", "streams", "wholes")

    def __init__(self) -> None:
        self._unread = 0
        self._since = 0.0
        self._seconds = 0.0
        self.streams = 0
        """Requests since the last look, by whether their answers stream."""
        self.wholes = 0

    def start(self, *, now: float) -> None:
        """A prompt was sent whose answer streams."""
        self.streams += 1
        if not self._unread:
            self._since = now
        self._unread += 1

    def stop(self, *, now: float) -> None:
        """It was read, or is not going to be."""
        self._unread -= 1
        if not self._unread:
            self._seconds += now - self._since

    def take(self, *, now: float) -> float:
        """Seconds with anything to read since the last look."""
        if self._unread:
            self._seconds += now - self._since
            self._since = now
        seconds, self._seconds = self._seconds, 0.0
        self.streams = self.wholes = 0
        return seconds


class Share:
    """Of the ready endpoints of one model, and of the time between two looks: what had prompts to read."""

    __slots__ = ("_at", "_share", "_streams", "_wholes")

    def __init__(self) -> None:
        self._at = -inf
        self._share: float | None = None
        self._streams = 0.0
        self._wholes = 0.0

    def look(self, readings: Iterable[tuple[Reading, bool]], *, now: float) -> float | None:
        """The share over the last seconds, whoever asks and how often; None where nothing tells it.

        Of each endpoint: its prompts, and whether it is ready.
        """
        seconds = now - self._at
        if seconds < LOOK_SECONDS:
            return self._share
        self._at = now
        count, total = 0, 0.0
        self._streams *= _FADING
        self._wholes *= _FADING
        for reading, is_ready in readings:
            self._streams += reading.streams
            self._wholes += reading.wholes
            taken = reading.take(now=now)
            if is_ready:
                count += 1
                total += taken
        self._share = self._complete(total / (count * seconds)) if count and seconds < inf else None
        return self._share

    def _complete(self, share: float) -> float | None:
        """The share with what was not seen."""
        answers = self._streams + self._wholes
        if self._streams < _LEAST_SEEN * answers or (not share and self._streams < _TELLING):
            return None
        seen = self._streams / answers if answers else 1.0
        return _from_odds(_to_odds(min(1.0, share)) / seen)


def join_shares(shares: Iterable[float | None]) -> float | None:
    """What gateways say of the same engines, each of its own requests; None where none says anything."""
    known = [share for share in shares if share is not None]
    return _from_odds(sum([_to_odds(share) for share in known])) if known else None


def _to_odds(share: float) -> float:
    return share / (1 - share) if share < 1 else inf


def _from_odds(odds: float) -> float:
    return odds / (1 + odds) if odds < inf else 1.0
