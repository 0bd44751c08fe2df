"""helm-unittest's suites in charts/lull/tests, run as a user of Helm would."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e.cluster.tools import HELM_UNITTEST, build_binary
from tests.chart.conftest import CHART

if TYPE_CHECKING:
    from tests.chart.conftest import Chart

SUITES = sorted((CHART / "tests").glob("*_test.yaml"))


@pytest.fixture(scope="session")
def program() -> Path:
    folder = os.environ.get("LULL_TEST_BINARIES")
    return Path(folder) / HELM_UNITTEST.name if folder else build_binary(HELM_UNITTEST)


def test_every_suite_passes(program: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [str(program), "--strict", str(CHART)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 0, result.stdout
    assert f"Test Suites: {len(SUITES)} passed, {len(SUITES)} total" in result.stdout


def test_suites_are_no_part_of_the_package(chart: Chart, tmp_path: Path) -> None:
    chart.helm("package", str(CHART), f"--destination={tmp_path}")
    (package,) = tmp_path.glob("lull-*.tgz")

    with tarfile.open(package) as archive:
        names = archive.getnames()

    assert "lull/templates/tests/models.yaml" in names
    assert [name for name in names if name.startswith("lull/tests/")] == []
