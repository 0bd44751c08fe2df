"""Each folder beside this file is a test; `make golden` rewrites them, and the diff is the review."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lull.api.reasons import Reason
from tests.golden.cases import CASES, render_children
from tests.golden.statuses import STATUSES, look, render_status


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_children(case: Path) -> None:
    assert render_children(case) == (case / "children.yaml").read_text()


@pytest.mark.parametrize("case", STATUSES, ids=lambda case: case.name)
def test_status(case: Path) -> None:
    assert render_status(case) == (case / "status.yaml").read_text()


@pytest.mark.parametrize("case", STATUSES, ids=lambda case: case.name)
def test_a_second_look_writes_nothing(case: Path) -> None:
    first = look(case)

    assert look(case, status=first) == first


def test_every_reason_has_a_status() -> None:
    given = {
        condition["reason"]
        for case in STATUSES
        for condition in yaml.safe_load((case / "status.yaml").read_text())["conditions"]
    }

    assert given == {reason.value for reason in Reason}


@pytest.mark.parametrize("case", STATUSES, ids=lambda case: case.name)
def test_never_stalled_and_reconciling_at_once(case: Path) -> None:
    # kstatus looks at Reconciling first, and would wait for what does not come.
    conditions = {
        condition["type"]: condition["status"]
        for condition in yaml.safe_load((case / "status.yaml").read_text())["conditions"]
    }

    assert (conditions["Stalled"], conditions["Reconciling"]) != ("True", "True")
