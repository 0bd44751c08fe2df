"""Golden statuses: each folder under `status/` holds what is observed and the status that it must give."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from lull.api import names
from lull.api.llmdeployment import LLMDeployment, Manifest
from lull.api.reasons import Reason
from lull.api.status import AdapterState, DecisionRecord
from lull.api.timestamps import parse_timestamp
from lull.cli.yamls import render_yaml
from lull.core.manifests import build, find_revision
from lull.core.nodes import UNCHECKED, check_nodes
from lull.core.observed import Observed
from lull.core.status import AdapterView, Problem, ScalingView, summarize
from tests.manifests import SETTINGS, manifest, stored

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
    deployment = stored(model, generation=given.get("generation", 1), status=status or given.get("status"))
    return summarize(
        deployment,
        Observed(
            workloads=tuple(given.get("workloads", ())),
            pods=tuple(_date_revision(pod, deployment) for pod in given.get("pods", ())),
            workers=tuple(given.get("workers", ())),
            others=tuple(given.get("others", ())),
            foreign=tuple(given.get("foreign", ())),
        ),
        scaling=ScalingView(
            desired_replicas=scaling.get("desiredReplicas"),
            reason=Reason(scaling.get("reason", "Scaling")),
            message=scaling.get("message", ""),
            decisions=tuple(DecisionRecord.model_validate(decision) for decision in scaling.get("decisions", ())),
        ),
        adapters=tuple(_read_adapter(adapter) for adapter in given.get("adapters", ())),
        nodes=check_nodes(deployment, build(deployment, SETTINGS), tuple(given["nodes"]), autoscaled=False)
        if "nodes" in given
        else UNCHECKED,
        problem=_read_problem(given["problem"]) if "problem" in given else None,
        conflict=given.get("conflict"),
        gateway_url="http://lull-gateway.lull-system.svc/v1",
        now=parse_timestamp(given["now"]),
    )


def _date_revision(pod: Manifest, deployment: LLMDeployment) -> Manifest:
    """Let a pod that says `current` bear the revision that its pool has now."""
    labels = pod["metadata"]["labels"]
    if labels.get(names.LABEL_REVISION) != "current":
        return pod
    pool = next(pool for pool in deployment.spec.placement.pools if pool.name == labels[names.LABEL_POOL])
    current = {**labels, names.LABEL_REVISION: find_revision(deployment, pool)}
    return {**pod, "metadata": {**pod["metadata"], "labels": current}}


def _read_adapter(given: Manifest) -> AdapterView:
    return AdapterView(
        given["name"], AdapterState(given["state"]), given.get("readyReplicas", 0), given.get("message", "")
    )


def _read_problem(given: Manifest) -> Problem:
    return Problem(Reason(given.get("reason", "InvalidSpec")), given["message"])
