"""`spec.adapters`: LoRA adapters that are served with the model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lull.api.base import LIST_BY_NAME, ApiModel, FetchedSource, ObjectName, Rule, ServedName


class AdapterItem(ApiModel):
    rules = (
        Rule(
            "!self.source.contains('..')",
            lambda adapter: ".." not in adapter.source,
            "source must not contain '..'",
        ),
    )

    name: Annotated[ServedName, Field(description='What clients send as "model" to get this adapter. Immediate.')]
    source: Annotated[
        FetchedSource,
        Field(
            description=(
                "Where the adapter comes from: hf://org/name[@revision], s3://, gs:// or oci://, as in model.source. "
                "A change loads it anew; no pod restarts."
            )
        ),
    ]


class AdaptersSpec(ApiModel):
    max_loaded: Annotated[
        int,
        Field(
            ge=1,
            le=128,
            description=(
                "Adapters that one engine computes with at a time (--max-loras); each slot takes accelerator memory "
                "of maxRank. More adapters than slots take turns. A change restarts the pods."
            ),
        ),
    ] = 8
    max_rank: Annotated[
        Literal[1, 8, 16, 32, 64, 128, 256, 320, 512],
        Field(description=("Highest rank that an adapter may have (--max-lora-rank). A change restarts the pods.")),
    ] = 16
    cpu_slots: Annotated[
        int | None,
        Field(
            ge=1,
            le=4096,
            description=(
                "Adapters that one engine keeps in main memory (--max-cpu-loras), at least maxLoaded; the others are "
                "read from disk when asked for. Default: maxLoaded. A change restarts the pods."
            ),
        ),
    ] = None
    secret_name: Annotated[
        ObjectName | None,
        Field(
            description=(
                "Secret that opens the adapters' sources, with keys as for model.secretName. Default: "
                "model.secretName. A change restarts the pods."
            )
        ),
    ] = None
    items: Annotated[
        list[AdapterItem],
        Field(
            max_length=512,
            description="The adapters. A change of the list restarts no pod.",
            json_schema_extra=LIST_BY_NAME,
        ),
    ] = []

    rules = (
        Rule(
            "!has(self.cpuSlots) || self.cpuSlots >= self.maxLoaded",
            lambda adapters: adapters.cpu_slots is None or adapters.cpu_slots >= adapters.max_loaded,
            "cpuSlots must not be less than maxLoaded",
        ),
    )
