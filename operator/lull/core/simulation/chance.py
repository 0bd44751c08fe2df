"""Random numbers that a seed gives again on every machine and version of Python, without a global state."""

from __future__ import annotations

from math import cos, log, pi, sqrt
from typing import Final

_WORD: Final = 2**64 - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


class Chance:
    """SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014)."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _WORD

    def uniform(self) -> float:
        """Between 0 and 1, neither of which it is."""
        self._state = (self._state + _GOLDEN) & _WORD
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
        return (((mixed ^ (mixed >> 31)) >> 11) + 0.5) * 2.0**-53

    def exponential(self, mean: float) -> float:
        return -mean * log(self.uniform())

    def normal(self) -> float:
        """Of mean 0 and deviation 1, by Box and Muller."""
        return sqrt(-2 * log(self.uniform())) * cos(2 * pi * self.uniform())
