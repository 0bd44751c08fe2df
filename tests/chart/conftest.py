"""Helm, and what it renders."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.tools import find_clients

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "lull"

Manifest = dict[str, Any]
Values = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """The chart as a user meets it: through the helm command."""

    helm_path: Path
    scratch: Path

    def helm(self, *arguments: str, check: bool = True) -> str:
        """What helm prints, errors included."""
        environment = {name: str(self.scratch / name) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HOME")}
        result = subprocess.run(
            [str(self.helm_path), *arguments],
            env={"PATH": os.environ["PATH"], **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert (result.returncode == 0) is check, result.stdout
        return result.stdout

    def render(self, values: Values | None = None, *, release: str = "lull") -> list[Manifest]:
        return [manifest for manifest in yaml.safe_load_all(self.helm(*self._template(values, release))) if manifest]

    def refuse(self, values: Values) -> str:
        return self.helm(*self._template(values, "lull"), check=False)

    def _template(self, values: Values | None, release: str) -> list[str]:
        path = self.scratch / "values.yaml"
        path.write_text(yaml.safe_dump(values or {}))
        return ["template", release, str(CHART), "--namespace=lull-system", f"--values={path}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a session may have to build helm before it runs."""
    for item in items:
        if "tests/chart/" in item.nodeid and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120, func_only=True))


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    folder = os.environ.get("LULL_TEST_BINARIES")
    helm = Path(folder) / "helm" if folder else find_clients()["helm"]
    return Chart(helm, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def defaults(chart: Chart) -> list[Manifest]:
    return chart.render()
