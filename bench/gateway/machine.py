"""The machine: its cores, processes pinned to them, and what the kernel counts of these."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CORES: Final = tuple(sorted(os.sched_getaffinity(0)))
GATEWAY_CORE: Final = CORES[0]
"""One gateway after another is measured here."""
OTHER_CORES: Final = CORES[1:] or CORES
"""Of the mock engine and the load generator."""

REALTIME: Final = os.environ.get("BENCH_REALTIME") == "1"
"""Let what is measured go before everything else on the machine (SCHED_RR, for root), where that is not quiet."""

_STOP_SECONDS: Final = 10
_PERIOD: Final = 10_000
"""Microseconds in which a share of a core is given out."""
_CGROUPS: Final = Path("/sys/fs/cgroup")


class Process:
    """A program pinned to cores, with its children."""

    def __init__(
        self, argv: Sequence[str], *, cores: Sequence[int], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        with log.open("ab") as output, _pinned(cores):
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if environment is None else {**os.environ, **environment},
            )
        self._name = Path(argv[0]).name
        self._log = log

    @property
    def pids(self) -> list[int]:
        """Its own, then its children's, oldest first."""
        own = self._process.pid
        return [own, *sorted(int(path.name) for path in Path("/proc").glob("[0-9]*") if _parent(path) == own)]

    def check(self) -> None:
        """Raise where it has ended."""
        if self._process.poll() is not None:
            said = self._log.read_text(errors="replace").strip().splitlines()[-8:]
            raise RuntimeError(f"{self._name} ended with {self._process.returncode}:\n" + "\n".join(said))

    def read_seconds(self) -> float:
        """Seconds of CPU that it has used, in user and in system."""
        return sum(map(_read_seconds, self.pids))

    def read_memory(self) -> float:
        """Megabytes of memory that were resident at most."""
        return sum(_read_memory(pid) for pid in self.pids)

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def run_pinned(argv: Sequence[str], *, cores: Sequence[int]) -> str:
    """Run a program to its end on these cores; what it printed."""
    with _pinned(cores):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return said


def pin(pid: int, core: int) -> None:
    """Move a process with all of its threads."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


@contextmanager
def limited(pids: Sequence[int], *, share: float) -> Iterator[bool]:
    """Give each process no more than a share of a core while the block runs; False where that is not allowed here."""
    groups: list[Path] = []
    try:
        for pid in pids:
            groups.append(_limit(pid, share))  # noqa: PERF401  those made before a failure are to be removed
    except OSError:
        yield False
    else:
        yield True
    finally:
        for group in groups:
            for member in (group / "cgroup.procs").read_text().split():
                (group.parent / "cgroup.procs").write_text(member)
            group.rmdir()


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on, one after another, for as many engines."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            start = int(first.getsockname()[1])
        ports = list(range(start, start + count))
        if ports[-1] < 65536 and all(map(_is_free, ports)):
            return ports


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _limit(pid: int, share: float) -> Path:
    quota = int(share * _PERIOD)
    if (_CGROUPS / "cpu").is_dir():
        group = _CGROUPS / "cpu" / f"lull-bench-{pid}"
        limits = {"cpu.cfs_period_us": str(_PERIOD), "cpu.cfs_quota_us": str(quota)}
    else:
        group = _CGROUPS / f"lull-bench-{pid}"
        limits = {"cpu.max": f"{quota} {_PERIOD}"}
    group.mkdir()
    try:
        for name, value in limits.items():
            (group / name).write_text(value)
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        group.rmdir()
        raise
    return group


@contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """What is started in the block is pinned before its first instruction, so that it counts its cores right."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    if REALTIME:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        if REALTIME:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, before)


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _read_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read_memory(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) / 1000
