"""Two ways to build the same Dockerfiles: a Docker daemon, or buildah with a storage of its own."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2e.images.base import OFFICIAL, base_digest, debian_mirror, ensure_rootfs, require_root
from e2e.images.commands import BuildError, answers, read, run
from e2e.progress import step

_STEPS_KEPT_SECONDS = 3 * 24 * 3600
_DEBIAN_TOOLS = ("buildah", "debootstrap")


@dataclass(frozen=True, slots=True)
class Settings:
    """Environment of a container, and the machine's folders that it may read, each with its place there."""

    environment: dict[str, str]
    folders: dict[Path, str]


@dataclass(frozen=True, slots=True)
class Container:
    """A container that shares the machine's network: how to start it in the foreground, and how to be rid of it."""

    start: list[str]
    remove: list[str]


@dataclass(frozen=True, slots=True)
class Job:
    """One build: a clean folder with exactly the inputs, and what to call the result."""

    context: Path
    dockerfile: str
    reference: str
    base: str
    secrets: dict[str, Path]
    log: Path
    keep_steps: bool


class Builder(Protocol):
    """Builds images into its own storage, and writes them out as archives."""

    base: str
    """Identity of the base image, part of each image's digest."""

    def prepare(self) -> None:
        """Make sure that the tools and the base image are there."""

    def has(self, reference: str) -> bool: ...

    def build(self, job: Job) -> None: ...

    def save(self, reference: str, archive: Path, log: Path) -> None: ...

    def load(self, archive: Path, log: Path) -> None: ...

    def prune(self, name: str, keep: str) -> None:
        """Remove an image's earlier builds."""

    def container(self, reference: str, name: str, arguments: list[str], settings: Settings) -> Container:
        """Prepare a container for the image's own entry point."""


def choose_builder(cache: Path) -> Builder:
    """LULL_BASE_IMAGE names the base; else Docker brings the official one; else debootstrap makes one."""
    named = os.environ.get("LULL_BASE_IMAGE")
    if answers(["docker", "info"]):
        return Docker(named or OFFICIAL)
    return Buildah(cache, named)


class Docker:
    """The Docker daemon of this machine."""

    def __init__(self, base: str) -> None:
        self.base = base

    def prepare(self) -> None:
        """Leave it to the daemon to pull the base image."""

    def has(self, reference: str) -> bool:
        return answers(["docker", "image", "inspect", reference])

    def build(self, job: Job) -> None:
        secrets = [f"--secret=id={name},src={path}" for name, path in job.secrets.items()]
        run(
            [
                "docker",
                "build",
                "--progress=plain",
                f"--file={job.context / job.dockerfile}",
                f"--tag={job.reference}",
                f"--build-arg=BASE={job.base}",
                *secrets,
                str(job.context),
            ],
            job.log,
            {**os.environ, "DOCKER_BUILDKIT": "1"},
        )

    def save(self, reference: str, archive: Path, log: Path) -> None:
        run(["docker", "save", "--output", str(archive), reference], log)

    def load(self, archive: Path, log: Path) -> None:
        run(["docker", "load", "--input", str(archive)], log)

    def container(self, reference: str, name: str, arguments: list[str], settings: Settings) -> Container:
        options = [f"--env={key}={value}" for key, value in settings.environment.items()]
        options += [f"--volume={source}:{target}:ro" for source, target in settings.folders.items()]
        start = ["docker", "run", "--rm", "--init", "--network=host", f"--name={name}", *options, reference, *arguments]
        return Container(start, ["docker", "rm", "--force", name])

    def prune(self, name: str, keep: str) -> None:
        for line in read(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", name]).splitlines():
            if line != keep:
                subprocess.run(["docker", "rmi", line], capture_output=True, check=False)


class Buildah:
    """buildah with root and chroot isolation: no daemon, no user namespace, a storage below the cache folder."""

    def __init__(self, cache: Path, named_base: str | None) -> None:
        self._cache = cache
        self._named_base = named_base
        self._digest = base_digest()
        self._rootfs = cache / "images" / f"base-{self._digest}.tar"
        self.base = named_base or f"docker.io/lull/base:{self._digest}"

    def command(self, *arguments: str) -> list[str]:
        """Spell out a buildah command on our own storage."""
        storage = self._cache / "buildah"
        # Overlay cannot sit on overlay, which is what a container's own root often is.
        driver = (
            "vfs"
            if read(["stat", "--file-system", "--format=%T", str(self._cache)]).strip() == "overlayfs"
            else "overlay"
        )
        return [
            "buildah",
            f"--root={storage / 'root'}",
            f"--runroot={storage / 'run'}",
            f"--storage-driver={driver}",
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        """Point TMPDIR, where buildah keeps unfinished layers, below the cache folder."""
        folder = self._cache / "buildah" / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return {**os.environ, "TMPDIR": str(folder)}

    def prepare(self) -> None:
        require_root("building images with buildah")
        self._cache.mkdir(parents=True, exist_ok=True)
        wanted = _DEBIAN_TOOLS[:1] if self._named_base else _DEBIAN_TOOLS
        _install_missing(wanted, self._cache / "images" / "tools.log")
        if self._named_base is None and not self.has(self.base):
            log = self._cache / "images" / "base.log"
            if not self._rootfs.exists():
                with step("base root file system (debootstrap)"):
                    ensure_rootfs(self._rootfs, log)
            with step("base image"):
                self._import_base(log)

    def has(self, reference: str) -> bool:
        return answers(self.command("inspect", "--type=image", reference))

    def build(self, job: Job) -> None:
        secrets = [f"--secret=id={name},src={path}" for name, path in job.secrets.items()]
        # A base that debootstrap made has no package sources of its own.
        mirror = debian_mirror() if self._named_base is None else None
        run(
            [
                *self.command("build", "--isolation=chroot", "--network=host", "--format=oci"),
                *([f"--build-arg=DEBIAN_MIRROR={mirror}"] if mirror else []),
                f"--layers={'true' if job.keep_steps else 'false'}",
                f"--file={job.context / job.dockerfile}",
                f"--tag={job.reference}",
                f"--build-arg=BASE={job.base}",
                *secrets,
                str(job.context),
            ],
            job.log,
            self.environment(),
        )

    def save(self, reference: str, archive: Path, log: Path) -> None:
        # Each node reads and unpacks the archive: zstd is both smaller and several times quicker to unpack than gzip.
        run(
            self.command("push", "--compression-format=zstd", reference, f"oci-archive:{archive}:{reference}"),
            log,
            self.environment(),
        )

    def load(self, archive: Path, log: Path) -> None:
        run(self.command("pull", f"oci-archive:{archive}"), log, self.environment())

    def container(self, reference: str, name: str, arguments: list[str], settings: Settings) -> Container:
        inspected = json.loads(read(self.command("inspect", "--type=image", reference)))
        entry: list[str] = inspected["OCIv1"]["config"]["Entrypoint"]
        options = [f"--env={key}={value}" for key, value in settings.environment.items()]
        options += [f"--volume={source}:{target}:ro" for source, target in settings.folders.items()]
        subprocess.run(self.command("from", f"--name={name}", reference), check=True, capture_output=True)
        start = self.command("run", "--isolation=chroot", "--network=host", *options, name, "--", *entry, *arguments)
        return Container(start, self.command("rm", name))

    def prune(self, name: str, keep: str) -> None:
        listed = json.loads(read(self.command("images", "--all", "--json")) or "[]")
        for reference in (each for image in listed for each in image.get("names") or ()):
            if reference.startswith(f"{name}:") and reference != keep:
                subprocess.run(self.command("rmi", reference), capture_output=True, check=False)
        # Kept steps make the next build quick; those of long ago belong to inputs that have changed since.
        long_ago = time.time() - _STEPS_KEPT_SECONDS
        for image in listed:
            if not image.get("names") and image["created"] < long_ago:
                subprocess.run(self.command("rmi", image["id"]), capture_output=True, check=False)

    def _import_base(self, log: Path) -> None:
        context = self._cache / "buildah" / "base-context"
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir(parents=True)
        os.link(self._rootfs, context / "rootfs.tar")
        try:
            dockerfile = Path(__file__).parents[2] / "images/base/Dockerfile"
            run(
                self.command("build", "--format=oci", f"--file={dockerfile}", f"--tag={self.base}", str(context)),
                log,
                self.environment(),
            )
        finally:
            shutil.rmtree(context)


def _install_missing(tools: tuple[str, ...], log: Path) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise BuildError(
            f"building images needs {' and '.join(missing)}, or a running Docker daemon: install one of them"
        )
    with step(f"install {' '.join(missing)}"):
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "--quiet"], log, environ)
        run(["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *missing], log, environ)
