"""Which provider: what the user named, else what is up already, else what is there."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import kind
from e2e.cluster.base import Cluster
from e2e.cluster.existing import ExistingCluster
from e2e.cluster.kind import KindCluster
from e2e.cluster.local import LocalCluster, extend_environment
from e2e.cluster.model import ClusterError, Provider, cluster_folder


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What decides: the user's words, and what the machine has."""

    provider: str | None
    kubeconfig: str | None
    local_exists: bool
    kind_available: bool
    linux: bool


def choose(surroundings: Surroundings) -> Provider:
    """Choose a provider."""
    if surroundings.provider:
        try:
            return Provider(surroundings.provider)
        except ValueError:
            raise ClusterError(
                f"There is no provider {surroundings.provider}; there are {', '.join(Provider)}."
            ) from None
    if surroundings.kubeconfig:
        return Provider.EXISTING
    if surroundings.local_exists:
        return Provider.LOCAL
    if surroundings.kind_available:
        return Provider.KIND
    if surroundings.linux:
        return Provider.LOCAL
    raise ClusterError("No cluster can be made here: start Docker and install kind, or name one by LULL_KUBECONFIG.")


def find_cluster(provider: str | None = None, kubeconfig: str | None = None, *, adopt: bool = False) -> Cluster:
    """Find the cluster that commands mean, whether it is up or not."""
    provider = provider or os.environ.get("LULL_PROVIDER")
    kubeconfig = kubeconfig or os.environ.get("LULL_KUBECONFIG")
    local = LocalCluster(cluster_folder(Provider.LOCAL))
    chosen = choose(
        Surroundings(
            provider=provider,
            kubeconfig=kubeconfig,
            local_exists=local.exists(),
            # Asking Docker takes a moment; it is not asked where the answer changes nothing.
            kind_available=not (provider or kubeconfig or local.exists()) and kind.is_available(),
            linux=sys.platform == "linux",
        )
    )
    match chosen:
        case Provider.LOCAL:
            extend_environment()
            return local
        case Provider.KIND:
            return KindCluster(cluster_folder(chosen))
        case Provider.EXISTING:
            if not kubeconfig:
                raise ClusterError("The provider existing needs a kubeconfig: set LULL_KUBECONFIG or use --kubeconfig.")
            return ExistingCluster(cluster_folder(chosen), Path(kubeconfig).absolute(), adopt=adopt)


def open_cluster(provider: str | None = None, kubeconfig: str | None = None) -> Cluster:
    """Open the cluster that is up, for tests and the demo; it is an error where there is none."""
    cluster = find_cluster(provider, kubeconfig)
    if not cluster.exists():
        raise ClusterError("No cluster is up: start one with `make cluster`.")
    return cluster
