"""Two tensor parallel ranks in one pod: real vLLM on CPU, and what engine-sim makes of the same flags."""

from typing import Any

import pytest

from tests.contract.conftest import Starter
from tests.contract.shapes import form_of

# The image may have to be built first, and two cores may be busy.
pytestmark = [pytest.mark.contract, pytest.mark.timeout(1500)]

_BODY: dict[str, Any] = {"model": "tiny", "prompt": "hi there", "max_tokens": 12, "ignore_eos": True}


def test_two_ranks_answer_as_one_engine(start: Starter) -> None:
    with start(["--tensor-parallel-size", "2"]) as pair:
        real, sim = (engine.client.post("/v1/completions", json=_BODY) for engine in pair)

    assert real.status_code == 200
    assert real.json()["usage"]["completion_tokens"] == 12
    assert form_of(real) == form_of(sim)
