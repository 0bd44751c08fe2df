"""`lull lint FILE…`: what a cluster would refuse or silently drop, by file and line, without a cluster."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from lull.core.documents import Severity, render_finding
from lull.core.linting import lint, list_names
from lull.core.manifests import build
from lull.core.manifests.settings import build_settings
from lull.settings import OperatorSettings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lull.api.llmdeployment import LLMDeployment


def run(files: Iterable[Path], *, output: str, strict: bool) -> int:
    """Print the findings of each file; 1 where there is an error (with `strict` also a warning), else 0."""
    settings = build_settings(OperatorSettings())

    def check(deployment: LLMDeployment) -> None:
        build(deployment, settings)

    texts: list[tuple[str, str]] = []
    for file in files:
        try:
            texts.append((str(file), sys.stdin.read() if str(file) == "-" else file.read_text()))
        except (OSError, UnicodeDecodeError) as error:
            print(f"lull lint: {file}: {error}", file=sys.stderr)
            return 1
    # One file by itself may well name models of others.
    beside = {name for _, text in texts for name in list_names(text)} if len(texts) > 1 else set()
    found = [(file, finding) for file, text in texts for finding in lint(text, check=check, beside=beside)]
    if output == "json":
        print(json.dumps([{"file": name, **asdict(finding)} for name, finding in found], indent=2))
    else:
        for name, finding in found:
            print(render_finding(name, finding))
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    return int(any(finding.severity in failing for _, finding in found))
