"""Golden statuses: each folder under `status/` holds what is observed and the status that it must give."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from lull.api.llmdeployment import Manifest
from lull.api.reasons import Reason
from lull.api.status import DecisionRecord
from lull.api.timestamps import parse_timestamp
from lull.cli.yamls import render_yaml
from lull.core.observed import Observed
from lull.core.status import ScalingView, summarize
from tests.manifests import manifest, stored

STATUSES: Final = sorted(path.parent for path in (Path(__file__).parent / "status").glob("*/observed.yaml"))


def render_status(case: Path) -> str:
    """The status that the observation of a case gives."""
    return render_yaml([look(case)])


def look(case: Path, *, status: Manifest | None = None) -> Manifest:
    """Summarize what a case observes; `status` stands for the one that is stored already."""
    given = yaml.safe_load((case / "observed.yaml").read_text())
    model = manifest(**given.get("spec", {}))
    model["metadata"].update(given.get("metadata", {}))
    scaling = given.get("scaling", {})
    return summarize(
        stored(model, generation=given.get("generation", 1), status=status or given.get("status")),
        Observed(
            workloads=tuple(given.get("workloads", ())),
            pods=tuple(given.get("pods", ())),
            foreign=tuple(given.get("foreign", ())),
        ),
        scaling=ScalingView(
            desired_replicas=scaling.get("desiredReplicas"),
            reason=Reason(scaling.get("reason", "Scaling")),
            message=scaling.get("message", ""),
            decisions=tuple(DecisionRecord.model_validate(decision) for decision in scaling.get("decisions", ())),
        ),
        problem=given.get("problem"),
        conflict=given.get("conflict"),
        now=parse_timestamp(given["now"]),
    )
