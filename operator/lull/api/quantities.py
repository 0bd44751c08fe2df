"""Durations (`90s`, `1h30m`) and Kubernetes quantities (`40Gi`, `500m`)."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

# The subset of Go's time.ParseDuration that Kubernetes' own APIs use; CEL's duration() reads the same text.
DURATION_PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"

_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_QUANTITY: Final = re.compile(r"^([0-9]+(?:\.[0-9]+)?)([a-zA-Z]*)$")
_FACTORS: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}


def parse_duration(text: str) -> float:
    """Seconds in a duration such as `90s` or `1h30m`; ValueError on anything else."""
    if re.match(DURATION_PATTERN, text) is None:
        raise ValueError(f"{text!r} is no duration: write for example 90s, 10m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def render_duration(seconds: float) -> str:
    """The shortest usual spelling of a duration, to a tenth of a second: `0.4s`, `12s`, `3m20s`, `2h`."""
    tenths = round(max(seconds, 0.0) * 10)
    if tenths < 600:
        return f"{tenths / 10:g}s"
    whole = round(max(seconds, 0.0))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return "".join(f"{value}{unit}" for value, unit in ((hours, "h"), (minutes, "m"), (left, "s")) if value) or "0s"


def parse_quantity(text: str) -> Decimal:
    """The number that a Kubernetes quantity stands for; ValueError on anything else."""
    match = _QUANTITY.match(text)
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{text!r} is no quantity: write for example 500m, 4 or 40Gi")
    return Decimal(match[1]) * _FACTORS[match[2]]
