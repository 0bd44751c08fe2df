"""Golden cases: each folder beside this file is a test; adding one adds no Python."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from lull.api.llmdeployment import Manifest
from lull.cli.yamls import render_yaml
from lull.core.manifests import build
from lull.core.observed import Observed
from lull.core.planning import plan
from tests.manifests import SETTINGS, stored

FOLDER: Final = Path(__file__).parent
CASES: Final = sorted(path.parent for path in FOLDER.glob("*/model.yaml"))


def read_model(case: Path) -> Manifest:
    """The LLMDeployment of a case, as a user writes it."""
    model: Manifest = yaml.safe_load((case / "model.yaml").read_text())
    return model


def render_children(case: Path) -> str:
    """What the operator's first round would apply."""
    return render_yaml(plan(build(stored(read_model(case)), SETTINGS), Observed()).apply)
