"""What every provider gives: three worker nodes, their labels, their pretend GPUs, and the constants of the local cluster."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from e2e.cache import cache_folder

NAME = "lull"
GPU = "nvidia.com/gpu"
GPUS_PER_NODE = 8


class ClusterError(Exception):
    """Something that the user can put right; its text is one sentence that says what."""


class Provider(StrEnum):
    """Where the cluster comes from."""

    EXISTING = "existing"
    KIND = "kind"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Profile:
    """What a node pretends to be: how it is paid for and where it stands."""

    capacity_type: str
    zone: str

    @property
    def labels(self) -> dict[str, str]:
        return {
            "lull.dev/capacity-type": self.capacity_type,
            "karpenter.sh/capacity-type": self.capacity_type,
            "topology.kubernetes.io/zone": self.zone,
            "nvidia.com/gpu.product": "NVIDIA-L4",
            "node.kubernetes.io/instance-type": "g6.12xlarge",
        }


@dataclass(frozen=True, slots=True)
class Node:
    """One worker node and the profile that it carries."""

    name: str
    profile: Profile


PROFILES = (Profile("on-demand", "zone-a"), Profile("spot", "zone-a"), Profile("spot", "zone-b"))

# The names that kind gives to the workers of a cluster called lull; local gives the same, so that nothing else differs.
NODES = tuple(
    Node(name, profile) for name, profile in zip(("lull-worker", "lull-worker2", "lull-worker3"), PROFILES, strict=True)
)


def cluster_folder(provider: Provider) -> Path:
    """Where one cluster keeps its state; gone after `down`."""
    if named := os.environ.get("LULL_CLUSTER_DIR"):
        return Path(named).absolute()
    return Path("/var/lib/lull/cluster") if provider is Provider.LOCAL else cache_folder() / "cluster"
