"""A real Prometheus, and a past made up for it."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.debian import Program, find_program

PROGRAM = "prometheus"
_ADVICE = "install Prometheus 2.42 or later with promtool (https://prometheus.io/download/)"
_FOR_EVER = "100y"


@dataclass(frozen=True, slots=True)
class Server:
    program: Program

    def start(self, folder: Path, *, port: int, config: str = "") -> subprocess.Popen[bytes]:
        """Serve what is in the folder on loopback, and scrape what the configuration says."""
        (folder / "prometheus.yml").write_text(config)
        argv = [
            str(self.program.executable),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--storage.tsdb.retention.time={_FOR_EVER}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (folder / "prometheus.log").open("ab") as log:
            return subprocess.Popen(argv, env=self.program.environment, stdout=log, stderr=subprocess.STDOUT)

    def fill(self, folder: Path, lines: Iterable[str]) -> None:
        """Put samples of the past, in OpenMetrics with times, where a server of the folder finds them at its start."""
        (folder / "past.txt").write_text("\n".join((*lines, "# EOF", "")))
        tool = self.program.beside("promtool")
        argv = [str(tool.executable), "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=240h"]
        subprocess.run(
            [*argv, str(folder / "past.txt"), str(folder / "tsdb")],
            env=tool.environment,
            check=True,
            capture_output=True,
        )


def find_server() -> Server:
    """The one on PATH, or Debian's."""
    return Server(find_program(PROGRAM, (PROGRAM,), advice=_ADVICE))
