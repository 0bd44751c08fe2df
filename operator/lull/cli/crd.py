"""`lull crd`."""

from __future__ import annotations

from lull.api.schema import build_crd
from lull.cli.yamls import render_yaml

_HEADER = "# Generated from operator/lull/api by `lull crd`; `make crds` writes it anew.\n"


def render_crd() -> str:
    """The CustomResourceDefinition as the file that is committed."""
    return _HEADER + render_yaml([build_crd()])
