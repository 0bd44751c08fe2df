"""Every flag that Lull renders, in every spelling of its value, before the parser of real vLLM."""

from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

from e2e.images import Settings, running
from lull.api.adapters import AdaptersSpec
from lull.api.engine import Dtype, KvCacheDtype, LoadFormat, SpeculativeMethod, StructuredOutputsBackend
from lull.api.llmdeployment import LLMDeployment
from lull.api.model import Task
from lull.core.manifests.arguments import build_arguments
from lull.core.manifests.sources import parse_source
from tests.golden.cases import CASES, read_model
from tests.manifests import manifest, stored

pytestmark = [pytest.mark.contract, pytest.mark.timeout(1500)]

_UNKNOWN: Final = "--known-to-nobody"
_DRAFT: Final = {"model": "hf://org/small"}
_WITH_MODEL: Final = {SpeculativeMethod.DRAFT, SpeculativeMethod.EAGLE, SpeculativeMethod.EAGLE3}


def _list_deployments() -> list[LLMDeployment]:
    """Specs that say each value of each field which becomes a flag, and those of the golden cases."""
    engines: list[dict[str, Any]] = [
        *({field: member.value} for field, kind in _FIELDS.items() for member in kind),
        *(
            {"speculative": {"method": method.value, **(_DRAFT if method in _WITH_MODEL else {})}}
            for method in SpeculativeMethod
        ),
        {
            "prefixCaching": False,
            "enforceEager": True,
            "kvOffload": {"cpu": "500Mi"},
            "attentionBackend": "TRITON_ATTN",
        },
        {"maxModelLen": 1, "maxNumSeqs": 1, "maxNumBatchedTokens": 1, "gpuMemoryUtilization": "1.000"},
    ]
    ranks = AdaptersSpec.model_json_schema()["properties"]["maxRank"]["enum"]
    return [
        *(stored(manifest(engine=engine)) for engine in engines),
        *(stored(manifest(model={"source": "hf://org/name", "task": task.value})) for task in Task),
        *(
            stored(manifest(adapters={"maxRank": rank, "cpuSlots": 99}, parallelism={"data": data}))
            for rank, data in product(ranks, (1, 2))
        ),
        *(stored(read_model(case)) for case in CASES),
    ]


_FIELDS: Final = {
    "dtype": Dtype,
    "kvCacheDtype": KvCacheDtype,
    "loadFormat": LoadFormat,
    "structuredOutputsBackend": StructuredOutputsBackend,
}


def test_vllm_takes_every_flag_that_is_rendered(tmp_path: Path) -> None:
    # The parser looks at each occurrence of a flag, and complains of one that it does not know when all others pass.
    flags = [
        argument
        for deployment in _list_deployments()
        for argument in build_arguments(deployment, parse_source(deployment.spec.model))[1:]
    ]
    log = tmp_path / "vllm.log"

    with running("engine-cpu", ["/model", *flags, _UNKNOWN], Settings({}, {}), log) as process:
        code = process.wait()

    assert f"unrecognized arguments: {_UNKNOWN}\n" in log.read_text()
    assert code == 2
