"""A real Kubernetes cluster on any machine: three nodes with pretend GPUs, whoever provides them.

`open_cluster()` gives tests and the demo the cluster that is up; `python -m e2e.cluster` is the command line.
"""

from e2e.cluster.base import Cluster
from e2e.cluster.choosing import find_cluster, open_cluster
from e2e.cluster.model import ClusterError, Node, Profile, Provider

__all__ = ["Cluster", "ClusterError", "Node", "Profile", "Provider", "find_cluster", "open_cluster"]
