"""The base image of a machine without a registry: a slim Debian root file system with Python."""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from e2e.images.commands import BuildError, read, run
from e2e.images.recipes import digest_of

OFFICIAL = "docker.io/library/python:3.13-slim-trixie"

_SUITE = "trixie"
_PACKAGES = ("python3", "python3-venv", "ca-certificates", "tini", "libnuma1")
_DROPPED = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/bash-completion",
    "var/cache/apt",
    "var/cache/debconf",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/log",
)
# debootstrap asks these of apt and dpkg when the image is extended, so the folders stay, empty.
_KEPT = ("var/cache/apt/archives/partial", "var/cache/debconf", "var/lib/apt/lists/partial", "var/log")


def base_digest() -> str:
    """Name the root file system by what it is made from, not by the day it was made."""
    return digest_of(part.encode() for part in (_SUITE, *_PACKAGES, *_DROPPED))


def debian_mirror() -> str | None:
    """Find the Debian mirror that this machine's apt uses; None leaves the choice to debootstrap."""
    lines = read(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"]).splitlines()
    for line in lines:
        origin, label, component, uri = line.split("|", 3)
        if (origin, component) == ("Debian", "main") and label != "Debian-Security":
            return uri.rstrip("/")
    return _mirror_in_sources()


def ensure_rootfs(archive: Path, log: Path) -> None:
    """Make the tar of the root file system unless it is there."""
    if archive.exists():
        return
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".base-") as folder:
        rootfs = Path(folder) / "rootfs"
        mirror = debian_mirror()
        try:
            run(
                ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(rootfs)]
                + ([mirror] if mirror else []),
                log,
            )
            _slim(rootfs)
            unfinished = Path(folder) / "rootfs.tar"
            run(
                [
                    "tar",
                    "--create",
                    "--file",
                    str(unfinished),
                    "--numeric-owner",
                    "--sort=name",
                    f"--directory={rootfs}",
                    "--exclude=./dev/*",
                    "--exclude=./proc/*",
                    "--exclude=./sys/*",
                    ".",
                ],
                log,
            )
        finally:
            _unmount_under(rootfs)
        unfinished.replace(archive)


def _slim(rootfs: Path) -> None:
    for name in _DROPPED:
        shutil.rmtree(rootfs / name, ignore_errors=True)
    for name in _KEPT:
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    # The machine's own resolver and package sources are nobody else's business.
    (rootfs / "etc/resolv.conf").unlink(missing_ok=True)
    (rootfs / "etc/hostname").unlink(missing_ok=True)
    (rootfs / "etc/apt/sources.list").unlink(missing_ok=True)


def _unmount_under(rootfs: Path) -> None:
    """Undo what an interrupted debootstrap mounted, as removing the folder would reach into it."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    for target in sorted((line.split()[1] for line in mounts), reverse=True):
        if target.startswith(f"{rootfs}/"):
            subprocess.run(["umount", "--lazy", target], check=False)


def _mirror_in_sources() -> str | None:
    """Where apt has no index yet (no `apt-get update` so far), its sources still name the mirror."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in filter(Path.is_file, sources):
        for line in path.read_text(errors="replace").splitlines():
            uris = [word for word in shlex.split(line, comments=True, posix=False) if "://" in word]
            if uris and uris[0].rstrip("/").endswith("/debian"):
                return uris[0].rstrip("/")
    return None


def require_root(purpose: str) -> None:
    if os.geteuid() != 0:
        raise BuildError(f"{purpose} needs root, or a running Docker daemon, or LULL_BASE_IMAGE and buildah")
