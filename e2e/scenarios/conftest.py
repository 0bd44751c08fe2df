"""One installation for all scenarios, and a namespace for each."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from e2e.demo import story
from e2e.lab import Installation, Lab, install, open_lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

HUB_NAMESPACE = "hub"
HUB = f"http://hub.{HUB_NAMESPACE}.svc.cluster.local:8080"
PROMETHEUS_NAMESPACE = "history"
PROMETHEUS_PORT = 9090
PRICE = 2
"""Of an hour of one of the cluster's GPUs."""
FAILED = pytest.StashKey[bool]()
"""Whether a scenario did."""
VALUES = (
    f"hub.endpoint={HUB}",
    f"operator.acceleratorPrices.NVIDIA-L4={PRICE}",
    f"prometheus.url=http://prometheus.{PROMETHEUS_NAMESPACE}.svc.cluster.local:{PROMETHEUS_PORT}",
)
"""What the chart is told."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A scenario may take minutes on two cores; a hang still ends with a traceback."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """A cluster with Lull installed as a user would install it."""
    with install(["lull", "engine-sim", "engine-cpu"], values=VALUES) as installed:
        yield installed


@pytest.fixture(scope="session")
def hub_namespace(installation: Installation) -> Iterator[str]:
    """Where the hub runs; gone after the last scenario that fetches from it."""
    yield HUB_NAMESPACE
    installation.kubectl("delete", "namespace", HUB_NAMESPACE, "--ignore-not-found", "--wait=true")


@pytest.fixture
def hub(installation: Installation, hub_namespace: str) -> None:
    """A hub with the tiny model and its adapters, ready."""
    found = installation.kubectl("get", "namespace", hub_namespace, "-o", "jsonpath={.status.phase}", check=False)
    if found == "Terminating":
        # An earlier run on this cluster: what is applied to a namespace on its way out goes with it.
        installation.kubectl("wait", "--for=delete", f"namespace/{hub_namespace}", "--timeout=180s")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": hub_namespace}}
    manifests = story.hub(installation.images["engine-cpu"])
    placed = ({**one, "metadata": {**one["metadata"], "namespace": hub_namespace}} for one in manifests)
    installation.apply(namespace, *placed)
    installation.kubectl("-n", hub_namespace, "wait", "--for=condition=Ready", "pod/hub", "--timeout=180s")


@pytest.fixture
async def lab(installation: Installation, request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """A namespace named after the test."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:50].rstrip("-")
    async with open_lab(installation, f"e2e-{name}") as opened:
        # Their ends are told in whole seconds.
        began = datetime.now(UTC).replace(microsecond=0)
        yield opened
        if request.node.stash.get(FAILED, False):
            print(await opened.tell_faults())
        assert await opened.tell_crashes(began) == ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have the fixtures know that their scenario failed."""
    report = yield
    if call.when == "call":
        item.stash[FAILED] = report.failed
    return report
