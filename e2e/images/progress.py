"""Lines on standard error that say what is going on and how long it took; a command's own output goes to a log."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_TAIL = 30


class BuildError(Exception):
    """An image cannot be built; the message says what is missing or shows the end of the log."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print the title when the work is done, with its seconds."""
    begun = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"  ✗ {title}  {time.monotonic() - begun:.1f} s")
        raise
    say(f"  ✓ {title}  {time.monotonic() - begun:.1f} s")


def run(command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> None:
    """Run a command, its output appended to the log; a step of a Dockerfile is shown as it begins."""
    begun = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as sink:
        sink.write(f"$ {' '.join(command)}\n")
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environ
        ) as process:
            for line in process.stdout or ():
                sink.write(line)
                if "STEP " in line:
                    say(f"    {time.monotonic() - begun:6.1f} s  {line.strip()[:110]}")
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
        raise BuildError(f"{command[0]} failed with {process.returncode}; the end of {log}:\n{tail}")


def answers(command: Sequence[str]) -> bool:
    """Whether a command is there and succeeds."""
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        return False


def read(command: Sequence[str]) -> str:
    """Return a command's output; empty where the command is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
