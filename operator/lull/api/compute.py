"""`spec.parallelism`, `spec.accelerator` and `spec.resources`: what one replica computes on."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Annotated, Final

from pydantic import Field

from lull.api.base import ApiModel, ProductName, Quantity, Rule
from lull.api.quantities import parse_quantity

MAX_PER_NODE: Final = 16
"""Most accelerators that a node of any vendor has (16 Neuron devices of a trn2.48xlarge, 16 GPUs of an a2-megagpu)."""


@unique
class Vendor(StrEnum):
    NVIDIA = "Nvidia"
    AMD = "Amd"
    TPU = "Tpu"
    NEURON = "Neuron"
    CPU = "Cpu"


class ParallelismSpec(ApiModel):
    tensor: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description=(
                "Tensor parallel degree (--tensor-parallel-size): accelerators that share each layer. It must divide "
                "the model's heads. A change restarts the pods."
            ),
        ),
    ] = 1
    pipeline: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description=(
                "Pipeline parallel degree (--pipeline-parallel-size): groups of accelerators that hold a part of the "
                "layers each, usually one group per node. A change restarts the pods."
            ),
        ),
    ] = 1
    data: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description=(
                "Data parallel degree inside one replica (--data-parallel-size), for mixture-of-experts models; "
                "others are better served by more replicas. A change restarts the pods."
            ),
        ),
    ] = 1
    expert: Annotated[
        bool,
        Field(
            description=(
                "Spread the experts of a mixture-of-experts model over the accelerators "
                "(--enable-expert-parallel) instead of cutting each. A change restarts the pods."
            )
        ),
    ] = False

    @property
    def accelerators(self) -> int:
        """Accelerators that one replica spans."""
        return self.tensor * self.pipeline * self.data


class AcceleratorSpec(ApiModel):
    rules = (
        Rule(
            "self.vendor != 'Cpu' || !has(self.product)",
            lambda accelerator: accelerator.vendor is not Vendor.CPU or accelerator.product is None,
            "product names an accelerator: leave it out where vendor is Cpu",
        ),
        Rule(
            "self.vendor != 'Cpu' || !has(self.resourceName)",
            lambda accelerator: accelerator.vendor is not Vendor.CPU or accelerator.resource_name is None,
            "resourceName asks for devices: leave it out where vendor is Cpu",
        ),
    )

    vendor: Annotated[
        Vendor,
        Field(
            description=(
                "Maker of the accelerator; it decides the image, the extended resource and the node label of product. "
                "Cpu asks for none. A change restarts the pods."
            )
        ),
    ] = Vendor.NVIDIA
    product: Annotated[
        ProductName | None,
        Field(
            description=(
                "Product that the node must be labelled with: nvidia.com/gpu.product, amd.com/gpu.product-name, "
                "cloud.google.com/gke-tpu-accelerator, or the instance type for Neuron; for example NVIDIA-L4. "
                "Default: any. A change restarts the pods."
            ),
        ),
    ] = None
    resource_name: Annotated[
        str | None,
        Field(
            max_length=253,
            pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
            description=(
                "Extended resource that a pod asks for, one per accelerator. Default: nvidia.com/gpu, amd.com/gpu, "
                "google.com/tpu or aws.amazon.com/neuron by vendor, none for Cpu. A change restarts the pods."
            ),
        ),
    ] = None
    nodes_per_replica: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description=(
                "Nodes that one replica spans. More than one makes each replica a group of pods (a LeaderWorkerSet, "
                "whose controller must be installed), with the accelerators spread evenly. A change restarts the pods."
            ),
        ),
    ] = 1


class ResourcesSpec(ApiModel):
    rules = (
        Rule(
            "!has(self.memory) || quantity(self.memory).isGreaterThan(quantity(self.sharedMemory))",
            lambda resources: (
                resources.memory is None or parse_quantity(resources.memory) > parse_quantity(resources.shared_memory)
            ),
            "memory must be greater than sharedMemory, which counts towards it",
        ),
    )

    cpu: Annotated[
        Quantity | None,
        Field(description="CPU that the engine container asks for. Default: none asked. A change restarts the pods."),
    ] = None
    memory: Annotated[
        Quantity | None,
        Field(
            description=(
                "Memory of the engine container, as request and limit. Default: none set. A change restarts the pods."
            )
        ),
    ] = None
    shared_memory: Annotated[
        Quantity,
        Field(
            description=(
                "Size of /dev/shm, a memory volume that counts towards memory; the accelerators' processes talk "
                "through it. A change restarts the pods."
            )
        ),
    ] = "2Gi"
