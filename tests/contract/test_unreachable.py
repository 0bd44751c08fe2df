"""Real vLLM in development mode behind the gateway: every admin endpoint is alive, and no client gets to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lull.wire.openai import INFERENCE_PATHS
from tests.hostile.engines import Tap
from tests.hostile.spellings import ADMIN_PATHS, attempts
from tests.hostile.test_spellings import attempt_all, find_wrong
from tests.unit.gateway import conftest as gateways

if TYPE_CHECKING:
    from tests.contract.conftest import Pair

running_gateway = gateways.running
pytestmark = [pytest.mark.contract, pytest.mark.timeout(1500)]


def _state(pair: Pair) -> dict[str, Any]:
    get = pair.real.client.get
    return {
        "asleep": get("/is_sleeping").json(),
        "paused": get("/is_paused").json(),
        "models": [model["id"] for model in get("/v1/models").json()["data"]],
    }


async def test_no_spelling_of_a_request_reaches_an_admin_endpoint(pair: Pair, running_gateway: Any) -> None:
    alive = [path for path in ADMIN_PATHS if pair.real.client.options(path).status_code != 404]
    assert {"/sleep", "/wake_up", "/collective_rpc", "/v1/load_lora_adapter", "/reset_prefix_cache"} <= {*alive}
    before = _state(pair)
    tried = attempts("tiny")

    async with (
        running_gateway(body_seconds=1, head_seconds=1) as world,
        Tap(int(pair.real.client.base_url.port or 0)) as tap,
    ):
        world.add_model("tiny")
        world.put_pod(tap, pod="pod-1", model="tiny")
        await world.wait_listed("tiny")
        heard = await attempt_all(world.settings.port, tried, at_once=4, patience=120)

    assert len(tried) > 3000
    assert "\n".join(find_wrong(heard)) == ""
    arrived = {(each.method, each.path) for each in tap.arrived}
    assert ("POST", "/v1/chat/completions") in arrived
    assert arrived <= {("POST", path) for path in INFERENCE_PATHS}
    assert _state(pair) == before
