"""docs/observing.md speaks of series and fields that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client import REGISTRY

from lull.doors import metrics  # noqa: F401  registers the operator's series
from lull.doors.gateway_metrics import GatewayMetrics

PAGE = (Path(__file__).parents[2] / "docs" / "observing.md").read_text()


def test_every_series_exists() -> None:
    ours = {
        family.name + suffix
        for registry in (REGISTRY, GatewayMetrics(dict).registry)
        for family in registry.collect()
        for suffix in ("", "_total", "_bucket", "_count")
    }

    assert set(re.findall(r"\blull_[a-z_]+[a-z]", PAGE)) <= ours


def test_the_table_explains_every_field_of_the_example() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    fields = json.loads(example).keys() - {"event", "logger", "level", "timestamp"}
    (table,) = re.findall(r"\| field \| \|\n(.*?)\n\n", PAGE, re.DOTALL)

    explained = {
        field
        for name in re.findall(r"`([a-z_…]+)`", table)
        for field in fields
        if field == name or (name.startswith("…") and field.endswith(name[1:]))
    }
    assert explained == fields
