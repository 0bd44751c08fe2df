"""Where a model comes from, as `spec.model.source` writes it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from lull.fetcher.failures import Failed

_HUB: Final = re.compile(
    r"hf://(?P<repository>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?"
)
_OBJECTS: Final = re.compile(
    r"(?P<scheme>s3|gs)://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220})(/(?P<prefix>[^/\s][^\s]*?)?)?/?"
)
_REGISTRY: Final = re.compile(
    r"oci://(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?)"
    r"/(?P<repository>[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DOCKER_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository on a Hugging Face compatible hub."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"hf://{self.repository}" + ("" if self.revision == "main" else f"@{self.revision}")

    @property
    def listing_path(self) -> str:
        return f"/api/models/{self.repository}/revision/{quote(self.revision, safe='')}?blobs=true"

    def file_path(self, commit: str, path: str) -> str:
        return f"/{self.repository}/resolve/{commit}/{quote(path, safe='/')}"


@dataclass(frozen=True, slots=True)
class ObjectSource:
    """The objects under a prefix of a bucket."""

    scheme: Literal["s3", "gs"]
    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


@dataclass(frozen=True, slots=True)
class RegistrySource:
    """An artifact or an image in an OCI registry; a digest pins it, whatever the tag says."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"oci://{self.host}/{self.repository}{tag}{digest}"

    @property
    def reference(self) -> str:
        return self.digest or self.tag or "latest"

    @property
    def api_host(self) -> str:
        """The host that speaks the distribution protocol."""
        return "registry-1.docker.io" if self.host in _DOCKER_HUB else self.host

    @property
    def api_repository(self) -> str:
        is_official = self.host in _DOCKER_HUB and "/" not in self.repository
        return f"library/{self.repository}" if is_official else self.repository


@dataclass(frozen=True, slots=True)
class MountedSource:
    """A folder that the pod mounts: nothing is fetched."""

    text: str

    def __str__(self) -> str:
        return self.text


Source = HubSource | ObjectSource | RegistrySource | MountedSource


def parse_source(text: str) -> Source:
    """Read a source; Failed for everything that is none."""
    if text.startswith(("file:///", "pvc://")):
        return MountedSource(text)
    if match := _HUB.fullmatch(text):
        return HubSource(match["repository"], match["revision"] or "main")
    if match := _OBJECTS.fullmatch(text):
        return ObjectSource("s3" if match["scheme"] == "s3" else "gs", match["bucket"], match["prefix"] or "")
    if match := _REGISTRY.fullmatch(text):
        return RegistrySource(match["host"], match["repository"], match["tag"], match["digest"])
    raise Failed(
        f"{text} is not a source: write hf://org/name[@revision], s3://bucket/prefix, gs://bucket/prefix, "
        "oci://host/repository[:tag][@sha256:digest], pvc://claim/path or file:///path."
    )
