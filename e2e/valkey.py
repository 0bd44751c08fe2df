"""A real Valkey server."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.debian import Program, find_program

PROGRAM = "valkey-server"
_PACKAGES = ("valkey-server", "valkey-tools", "libatomic1", "libjemalloc2", "liblzf1")
_ADVICE = "install Valkey 7.2 or later (https://valkey.io/download/)"


@dataclass(frozen=True, slots=True)
class Server:
    program: Program

    def start(self, folder: Path, *, port: int, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Listen on loopback, with nothing kept on disk."""
        argv = [str(self.program.executable), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        with (folder / "valkey.log").open("ab") as log:
            return subprocess.Popen(
                [*argv, "--save", "", "--appendonly", "no", *options],
                env=self.program.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def find_server() -> Server:
    """The one on PATH, or Debian's."""
    return Server(find_program(PROGRAM, _PACKAGES, advice=_ADVICE))
