"""Runs the programs that build images, their output going to a log."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.progress import say

_TAIL = 30


class BuildError(Exception):
    """An image cannot be built; the message says what is missing or shows the end of the log."""


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
