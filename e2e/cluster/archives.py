"""OCI image archives: which images one holds, and a writer for an image of a single file."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.model import ClusterError

_CONTAINERD_NAME = "io.containerd.image.name"
_OCI_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Image:
    """One image of an archive: its reference as written there, and its digest where the archive tells."""

    reference: str
    digest: str | None

    @property
    def full_reference(self) -> str:
        """The reference as kubelets ask for it: with registry, repository and tag."""
        return normalize_reference(self.reference)


def normalize_reference(reference: str) -> str:
    """Write out what a short reference leaves out: docker.io, library and latest."""
    first, slash, _ = reference.partition("/")
    if not slash:
        reference = f"docker.io/library/{reference}"
    elif not ("." in first or ":" in first or first == "localhost"):
        reference = f"docker.io/{reference}"
    name = reference.rpartition("/")[2]
    return reference if ":" in name or "@" in name else f"{reference}:latest"


def read_images(archive: Path) -> tuple[Image, ...]:
    """List the images of an OCI archive, or of an archive that `docker save` wrote."""
    try:
        with tarfile.open(archive) as opened:
            index = _member(opened, "index.json")
            manifest = _member(opened, "manifest.json") if index is None else None
    except (OSError, tarfile.TarError) as error:
        raise ClusterError(f"{archive} cannot be read as an image archive: {error}") from error
    images = parse_index(index) if index is not None else parse_docker_manifest(manifest)
    if not images:
        raise ClusterError(
            f"{archive} names no image; write it with a full reference, as in oci-archive:FILE:docker.io/NAME:TAG"
        )
    return images


def parse_index(index: Any) -> tuple[Image, ...]:
    """Read the references and digests from an OCI archive's index.json."""
    images = []
    for manifest in index.get("manifests", ()):
        annotations = manifest.get("annotations") or {}
        reference = annotations.get(_CONTAINERD_NAME) or annotations.get(_OCI_NAME, "")
        # A bare tag names no image; containerd would make up a name that no pod asks for.
        if "/" in reference or ":" in reference:
            images.append(Image(reference, manifest["digest"]))
    return tuple(images)


def parse_docker_manifest(manifest: Any) -> tuple[Image, ...]:
    """Read the references from the manifest.json of `docker save`, which holds no digests."""
    return tuple(Image(tag, None) for entry in manifest or () for tag in entry.get("RepoTags") or ())


def write_image(archive: Path, *, reference: str, binary: Path, entrypoint: Sequence[str], machine: str) -> None:
    """Write an OCI archive whose image holds one static binary, the same bytes for the same input."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        entry = tarfile.TarInfo(binary.name)
        entry.size, entry.mode = binary.stat().st_size, 0o755
        with binary.open("rb") as content:
            files.addfile(entry, content)
    packed = gzip.compress(layer.getvalue(), mtime=0)
    config = _json(
        {
            "architecture": machine,
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
        }
    )
    described = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    index = _json({"schemaVersion": 2, "manifests": [{**described, "annotations": {_CONTAINERD_NAME: reference}}]})
    with tarfile.open(archive, mode="w") as files:
        for blob in (packed, config, manifest):
            _add(files, f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", blob)
        _add(files, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(files, "index.json", index)


def _member(archive: tarfile.TarFile, name: str) -> Any:
    for candidate in (name, f"./{name}"):
        try:
            content = archive.extractfile(candidate)
        except KeyError:
            continue
        if content is not None:
            return json.load(content)
    return None


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))
