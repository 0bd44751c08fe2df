"""What Kubernetes' and Knative's own code decide on given signals."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from e2e.cluster.tools import Binary, build_binary

if TYPE_CHECKING:
    from collections.abc import Sequence

_HERE: Final = Path(__file__).parent
HPA: Final = Binary("hpa", "hpa", ".", folder=_HERE)
KPA: Final = Binary("kpa", "kpa", ".", folder=_HERE)


def ask(binary: Binary, cases: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Build the program, or find it in the cache, and have it decide."""
    program = build_binary(binary)
    answer = subprocess.run([program], input=json.dumps(cases), check=True, capture_output=True, text=True)
    decided: list[list[int]] = json.loads(answer.stdout)
    return decided
