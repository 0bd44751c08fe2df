"""What the operator adds to every LLMDeployment, and what its cluster can take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lull.settings import OperatorSettings


@dataclass(frozen=True, slots=True)
class BuildSettings:
    image: str
    """Image of Lull, which holds the fetcher."""
    image_pull_policy: str
    hub_endpoint: str
    lull_namespace: str
    s3_endpoint: str = ""
    """Base URL of the S3 API; empty means Amazon's."""
    gs_endpoint: str = ""
    """Base URL of the Cloud Storage API; empty means Google's."""
    oci_plain_http: str = ""
    """Registries that are reached without TLS, separated by commas."""
    pass_labels: tuple[str, ...] = ()
    """Keys of labels that pods and children take over from their LLMDeployment, such as those for cost."""
    serves_groups: bool = True
    """Whether the cluster knows LeaderWorkerSets."""
    serves_pod_monitors: bool = False
    """Whether the cluster knows PodMonitors."""


def build_settings(settings: OperatorSettings) -> BuildSettings:
    """What an operator with these settings adds, in a cluster that lacks nothing but PodMonitors."""
    return BuildSettings(
        image=settings.image,
        image_pull_policy=settings.image_pull_policy,
        hub_endpoint=settings.hub_endpoint,
        lull_namespace=settings.namespace,
        s3_endpoint=settings.s3_endpoint,
        gs_endpoint=settings.gs_endpoint,
        oci_plain_http=settings.oci_plain_http,
        pass_labels=settings.passed_labels,
    )
