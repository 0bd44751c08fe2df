"""`lull crd`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lull.api.schema import build_crd
from lull.cli.yamls import render_yaml

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = "# Generated from operator/lull/api by `lull crd`; `make crds` writes it anew.\n"


def render_crd() -> str:
    """The CustomResourceDefinition as the file that is committed."""
    return _HEADER + render_yaml([build_crd()])


def check_crd(path: Path) -> int:
    """Say where a file is not the CustomResourceDefinition of this version; the exit code."""
    if path.is_file() and path.read_text() == render_crd():
        return 0
    print(f"lull crd: {path} is not what the types give; `make crds` writes it anew", file=sys.stderr)
    return 1
