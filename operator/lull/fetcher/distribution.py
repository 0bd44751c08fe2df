"""The OCI distribution protocol's documents: manifests, challenges, logins. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from lull.fetcher.failures import Failed
from lull.fetcher.snapshot import Checksum, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    Json = dict[str, Any]

MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_PARAMETER: Final = re.compile(r'([a-zA-Z_]+)="([^"]*)"')
_TITLE: Final = "org.opencontainers.image.title"
_UNPACK: Final = "io.deis.oras.content.unpack"
_MODELPACK_PATHS: Final = ("org.cncf.model.filepath", "org.cnai.model.filepath")
_ARCHIVE: Final = re.compile(r"[.+]tar([.+]gzip)?$|\.rootfs\.diff\.tar")
# What ModelPack and KitOps pack beside a model.
_BESIDE: Final = re.compile(r"\.(dataset|docs?)\.")


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob that holds one file or an archive of files."""

    digest: str
    size: int
    path: str | None
    """The file's path; None for an archive."""

    @property
    def file(self) -> RemoteFile:
        checksum = Checksum("sha256", self.digest.removeprefix("sha256:"))
        return RemoteFile(self.path or checksum.hex, self.size, checksum, address=self.digest)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry asks for: a password, or a token from the realm."""

    scheme: str
    realm: str = ""
    service: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def parse_layers(manifest: Json) -> tuple[Layer, ...]:
    """Read what a manifest's layers hold; those that hold neither a model's file nor an archive are left out."""
    try:
        return tuple(layer for answer in manifest["layers"] if (layer := _parse_layer(answer)) is not None)
    except (KeyError, TypeError, AttributeError) as error:
        raise Failed(f"The registry's manifest cannot be read: {type(error).__name__} {error}.") from error


def is_index(manifest: Json) -> bool:
    return isinstance(manifest.get("manifests"), list)


def pick_manifest(index: Json, architecture: str) -> str:
    """Pick the digest that an index gives for this machine, else its first: a model's files are the same for all."""
    try:
        entries = [
            entry
            for entry in index["manifests"]
            # Build tools put their attestations beside the image, for no machine.
            if (entry.get("platform") or {}).get("architecture") != "unknown"
        ]
        fitting = [
            entry
            for entry in entries
            if (entry.get("platform") or {}).get("architecture") == architecture
            and (entry.get("platform") or {}).get("os") == "linux"
        ]
        digest = (fitting or entries)[0]["digest"]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise Failed("The registry's index names no manifest that can be used.") from error
    return _parse_digest(digest)


def parse_challenge(header: str) -> Challenge | None:
    """Read `WWW-Authenticate`; None for a scheme that no registry should use."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() == "basic":
        return Challenge("basic")
    parameters = {name.lower(): value for name, value in _PARAMETER.findall(rest)}
    if scheme.lower() == "bearer" and parameters.get("realm"):
        return Challenge("bearer", parameters["realm"], parameters.get("service", ""))
    return None


def find_login(docker_config: str, hosts: Iterable[str]) -> Login | None:
    """Find a registry's login in a `.dockerconfigjson`, under any of its names."""
    try:
        entries = json.loads(docker_config)["auths"]
        logins = {_bare(name): entry for name, entry in entries.items()}
        entry = next((logins[host] for host in hosts if host in logins), None)
        return None if entry is None else _parse_login(entry)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        # Without a cause: what it says may quote a password.
        raise Failed(
            ".dockerconfigjson in the Secret cannot be read: make it with kubectl create secret "
            f"docker-registry ({type(error).__name__})."
        ) from None


def _parse_layer(answer: Json) -> Layer | None:
    media_type: str = answer.get("mediaType") or ""
    annotations: Json = answer.get("annotations") or {}
    if _BESIDE.search(media_type):
        return None
    digest, size = _parse_digest(answer["digest"]), answer["size"]
    if not isinstance(size, int) or size < 0:
        raise TypeError(f"the size {size!r}")
    is_archive = _ARCHIVE.search(media_type) is not None
    if "zstd" in media_type:
        raise Failed("The model's layers are compressed with zstd: push them with gzip or, better, not compressed.")
    for name in _MODELPACK_PATHS:
        if name in annotations:
            return Layer(digest, size, None if is_archive else _clean(annotations[name]))
    if _TITLE in annotations:
        # ORAS says tar of every file that has no type of its own, and marks what it did pack.
        is_packed = annotations.get(_UNPACK) == "true"
        return Layer(digest, size, None if is_packed else _clean(annotations[_TITLE]))
    return Layer(digest, size, None) if is_archive else None


def _clean(path: str) -> str:
    return path.removeprefix("./")


def _parse_digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise Failed(f"The registry names the digest {text[:80]!r}: only sha256 is read.")
    return text


def _bare(name: str) -> str:
    return name.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _parse_login(entry: Json) -> Login:
    token = entry.get("identitytoken") or ""
    if "username" in entry and "password" in entry:
        return Login(entry["username"], entry["password"], token)
    username, _, password = base64.b64decode(entry.get("auth") or "", validate=True).decode().partition(":")
    return Login(username, password, token)
