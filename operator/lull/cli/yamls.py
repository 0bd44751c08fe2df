"""YAML as people read it: keys in the order in which they were written, no anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.api.llmdeployment import Manifest


class _Dumper(yaml.SafeDumper):
    """Writes a shared value twice rather than as an anchor."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  the signature is PyYAML's
        return True


def render_yaml(documents: Iterable[Manifest]) -> str:
    """One YAML document for each manifest."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
