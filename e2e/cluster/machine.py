"""What the local cluster asks of the Linux machine: cgroups, mounts, addresses, routes, kernel settings, ports."""

import re
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CAP_SYS_RESOURCE = 24
_LISTENING = "0A"
_UDP_UNCONNECTED = "07"
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    point: Path
    kind: str


def parse_mountinfo(text: str) -> list[Mount]:
    """Read mount points and file system types from /proc/self/mountinfo."""
    mounts = []
    for line in text.splitlines():
        fields = line.split()
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4])
        mounts.append(Mount(Path(point), fields[fields.index("-", 6) + 1]))
    return mounts


def read_mounts() -> list[Mount]:
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text())


def mounts_under(mounts: Iterable[Mount], folder: Path) -> list[Path]:
    """List the mount points under a folder, the last mounted first, so that each can go before what it lies on."""
    return [mount.point for mount in mounts if mount.point.is_relative_to(folder)][::-1]


def choose_snapshotter(mounts: Iterable[Mount], folder: Path) -> str:
    """Choose how containerd stacks layers: overlays do not lie on overlays, as in a container, and copies do everywhere."""
    holding = [mount for mount in mounts if folder.is_relative_to(mount.point)]
    # Of mounts on the same point the last one shows.
    kind = max(enumerate(holding), key=lambda item: (len(item[1].point.parts), item[0]))[1].kind
    return "native" if "overlay" in kind else "overlayfs"


def unmount_under(folder: Path) -> None:
    """Unmount everything under a folder; what is busy goes when its last user does."""
    points = [str(point) for point in mounts_under(read_mounts(), folder)]
    for start in range(0, len(points), 100):
        subprocess.run(["umount", "--lazy", *points[start : start + 100]], capture_output=True, check=False)


def cgroup_hierarchies(mounts: Iterable[Mount]) -> list[Path]:
    """List where cgroup controllers are mounted: one folder per controller in v1, a single one in v2."""
    return [mount.point for mount in mounts if mount.kind in {"cgroup", "cgroup2"}]


def is_cgroup_v2(mounts: Iterable[Mount]) -> bool:
    """Tell whether the machine has cgroup v2 alone, as kubelet and runc see it."""
    return Mount(Path("/sys/fs/cgroup"), "cgroup2") in mounts


def make_cgroup(name: str, *, cpus: int) -> None:
    """Make a cgroup in every hierarchy, ready to hold processes and weighing as much as so many processes outside.

    A process outside every cgroup weighs as much as a cgroup, so that all pods together would get what one busy client gets.
    """
    mounts = read_mounts()
    for hierarchy in cgroup_hierarchies(mounts):
        folder = hierarchy
        for part in name.strip("/").split("/"):
            if is_cgroup_v2(mounts):
                _delegate_controllers(folder)
            parent, folder = folder, folder / part
            folder.mkdir(exist_ok=True)
            _copy_cpuset(parent, folder)
        for file, weight in (("cpu.shares", 1024 * cpus), ("cpu.weight", min(100 * cpus, 10_000))):
            if (folder / file).exists():
                (folder / file).write_text(str(weight))


def cgroup_pids(name: str) -> set[int]:
    """List the processes in a cgroup and all below it."""
    pids: set[int] = set()
    for hierarchy in cgroup_hierarchies(read_mounts()):
        for members in (hierarchy / name.strip("/")).glob("**/cgroup.procs"):
            with suppress(OSError):
                pids.update(int(line) for line in members.read_text().split())
    return pids


def remove_cgroup(name: str, *, seconds: float = 5) -> None:
    """Remove a cgroup and all below it; the kernel needs a moment after the last process has ended."""
    deadline = time.monotonic() + seconds
    roots = [hierarchy / name.strip("/") for hierarchy in cgroup_hierarchies(read_mounts())]
    while roots := [root for root in roots if not _remove_tree(root)]:
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def has_sys_resource(status: str) -> bool:
    """Tell from /proc/self/status whether the process may raise limits, such as lower an OOM score."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(found and int(found[1], 16) >> _CAP_SYS_RESOURCE & 1)


def parse_sockets(text: str) -> set[tuple[str, int]]:
    """Read the IPv4 addresses and ports that are bound from /proc/net/tcp or /proc/net/udp."""
    bound = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        if fields[3] in {_LISTENING, _UDP_UNCONNECTED}:
            address, port = fields[1].split(":")
            # The kernel prints the address as a number in the machine's own byte order.
            bound.add((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)))
    return bound


def bound_sockets() -> set[tuple[str, int]]:
    return set().union(*(parse_sockets(Path(f"/proc/net/{kind}").read_text()) for kind in ("tcp", "udp")))


def accepts(address: str, port: int) -> bool:
    """Tell whether somebody listens there."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def read_settings(names: Iterable[str]) -> dict[str, str]:
    """Read kernel settings; one that this kernel lacks is left out."""
    settings = {}
    for name in names:
        with suppress(OSError):
            settings[name] = _setting(name).read_text().strip()
    return settings


def write_settings(settings: Mapping[str, str]) -> None:
    """Write the kernel settings that differ; one that may not be written stays as it is."""
    for name, value in settings.items():
        with suppress(OSError):
            if _setting(name).read_text().strip() != value:
                _setting(name).write_text(value)


def ip(*arguments: str) -> None:
    """Change an address or a route; that it is there already, or gone already, is as good."""
    subprocess.run(["ip", *arguments], capture_output=True, check=False)


def delete_tables(tables: Sequence[tuple[str, str]]) -> None:
    """Delete nft tables; one that is not there is as good."""
    for family, name in tables:
        subprocess.run(["nft", "delete", "table", family, name], capture_output=True, check=False)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _setting(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))


def _delegate_controllers(folder: Path) -> None:
    for controller in (folder / "cgroup.controllers").read_text().split():
        # A controller that cannot be handed down (realtime, a process in the way) is one that pods do without.
        with suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _copy_cpuset(parent: Path, folder: Path) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        source, target = parent / name, folder / name
        # In v1 a new cpuset is empty and takes no process; in v2 an empty one inherits, and the root has no such file.
        if target.exists() and source.exists() and not target.read_text().strip():
            with suppress(OSError):
                target.write_text(source.read_text())


def _remove_tree(root: Path) -> bool:
    if not root.exists():
        return True
    for folder in sorted((path for path in root.glob("**/") if path.is_dir()), key=lambda path: -len(path.parts)):
        with suppress(OSError):
            folder.rmdir()
    return not root.exists()
