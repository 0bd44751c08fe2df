"""Processes that outlive the command which starts them, known by their number and the moment of their start."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_DEAD = frozenset("ZX")

# The shell backgrounds the program and ends, so that nobody has to wait for it; `setsid` then replaces itself by the program under the
# number that the shell prints.
_LAUNCHER = 'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its number, and its start in clock ticks since boot, since numbers are used again."""

    pid: int
    started: int


def start(argv: Sequence[str], *, log: Path, environment: Mapping[str, str], cwd: Path) -> Process:
    """Start a program in a session of its own, its output appended to a file."""
    launched = subprocess.run(
        ["sh", "-c", _LAUNCHER, "sh", str(log), *argv],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
        cwd=cwd,
    )
    pid = int(launched.stdout)
    return Process(pid, started_at(pid) or 0)


def is_running(process: Process) -> bool:
    """Tell whether this very process still runs; one that waits to be reaped does not."""
    return started_at(process.pid) == process.started


def started_at(pid: int) -> int | None:
    """Read when a process started; None where it does not run."""
    try:
        state, started = parse_stat((_PROC / str(pid) / "stat").read_text())
    except (OSError, ValueError):
        return None
    return None if state in _DEAD else started


def parse_stat(text: str) -> tuple[str, int]:
    """Read state and start from /proc/PID/stat, whose second field may hold spaces and brackets."""
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def find(is_wanted: Callable[[Sequence[str]], bool]) -> list[Process]:
    """Find the running processes whose command line is wanted."""
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            argv = parse_cmdline((entry / "cmdline").read_bytes())
            if argv and is_wanted(argv) and (started := started_at(int(entry.name))) is not None:
                found.append(Process(int(entry.name), started))
    return found


def parse_cmdline(content: bytes) -> list[str]:
    """Split /proc/PID/cmdline; a kernel thread's is empty."""
    return content.decode(errors="replace").rstrip("\0").split("\0") if content else []


def from_pids(pids: Iterable[int]) -> list[Process]:
    """Pin numbers that were just read to the processes which bear them now."""
    return [Process(pid, started) for pid in pids if (started := started_at(pid)) is not None]


def kill(processes: Iterable[Process], *, seconds: float = 10) -> None:
    """Kill processes and return when none of them runs, or when the time is up."""
    remaining = [process for process in processes if _signal(process, signal.SIGKILL)]
    deadline = time.monotonic() + seconds
    while remaining and time.monotonic() < deadline:
        time.sleep(0.02)
        remaining = [process for process in remaining if is_running(process)]


def _signal(process: Process, number: signal.Signals) -> bool:
    # The descriptor pins the process, so that between looking and signalling its number cannot pass to a stranger.
    try:
        descriptor = os.pidfd_open(process.pid)
    except (ProcessLookupError, FileNotFoundError):
        # A process that is just ending is said to be no file by some kernels.
        return False
    try:
        if not is_running(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True
