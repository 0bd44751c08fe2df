"""The policy of a simulation: an LLMDeployment as it would be applied, or only what stands in its `spec.scaling`."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

import yaml

from lull.api import names
from lull.api.llmdeployment import parse_llmdeployment
from lull.core.documents import Severity, parse_documents, render_finding
from lull.core.linting import lint
from lull.core.schedules import check_schedules

if TYPE_CHECKING:
    from lull.api.llmdeployment import LLMDeployment
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.documents import Finding

_FRAME: Final = f"""\
apiVersion: {names.API_VERSION}
kind: {names.KIND}
metadata: {{name: policy}}
spec:
  model: {{source: "file:///model"}}
"""
_SCALING: Final = "  scaling:\n"


class InvalidPolicy(ValueError):  # noqa: N818  reads as what it says of the file
    """What is wrong, a line for each finding."""


def parse_policy(text: str, *, file: str) -> LLMDeploymentSpec:
    """Read a manifest, the `scaling:` part of one with other parts of a spec beside it, or the fields of that part."""
    framed, offset = _frame(text, file)
    findings = [one for one in lint(framed, check=_check) if one.severity is Severity.ERROR]
    if findings:
        lines = (render_finding(file, _shift(finding, offset)) for finding in findings)
        raise InvalidPolicy("\n".join(lines))
    deployments = [one.value for one in parse_documents(framed) if (one.value or {}).get("kind") == names.KIND]
    if len(deployments) > 1:
        found = ", ".join(one["metadata"]["name"] for one in deployments)
        raise InvalidPolicy(f"{file}: holds several {names.KIND}s ({found}): a policy is one of them")
    return parse_llmdeployment(deployments[0]).spec


def _check(deployment: LLMDeployment) -> None:
    check_schedules(deployment.spec.scaling)


def _frame(text: str, file: str) -> tuple[str, int]:
    """The text as a whole manifest, and how many lines that adds in front."""
    try:
        documents = [one.value for one in parse_documents(text) if one.value is not None]
    except yaml.YAMLError:
        # Lint says where.
        return text, 0
    if not documents:
        raise InvalidPolicy(f"{file}: is empty")
    if len(documents) > 1 or not isinstance(documents[0], dict) or "kind" in documents[0]:
        return text, 0
    if text.lstrip().startswith("{"):
        # Braces do not go on below a line that ends in a colon.
        frame = yaml.safe_load(_FRAME)
        frame["spec"] |= documents[0] if "scaling" in documents[0] else {"scaling": documents[0]}
        return yaml.safe_dump(frame, default_flow_style=True, width=inf), 0
    head = _FRAME if "scaling" in documents[0] else _FRAME + _SCALING
    indent = "  " if "scaling" in documents[0] else "    "
    body = "\n".join("#" if line.startswith("---") else indent + line for line in text.splitlines())
    return head + body + "\n", head.count("\n")


def _shift(finding: Finding, offset: int) -> Finding:
    return replace(finding, line=max(1, finding.line - offset))
