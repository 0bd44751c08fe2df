"""What the local cluster has written down about itself, so that any later command knows what it started and what it changed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Self

from e2e.cluster.processes import Process


@dataclass(frozen=True, slots=True)
class State:
    """The boot that the processes belong to, the processes, and how the machine was before."""

    boot: str
    settings: Mapping[str, str]
    absent: tuple[str, ...]
    processes: Mapping[str, Process]

    def render(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        content: dict[str, Any] = json.loads(text)
        return cls(
            boot=content["boot"],
            settings=content["settings"],
            absent=tuple(content["absent"]),
            processes={name: Process(**process) for name, process in content["processes"].items()},
        )


class StateFile:
    """The state on disk; every change is written at once and whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()

    def read(self) -> State | None:
        """Read the state; None where there is none, or none that can be read."""
        try:
            return State.parse(self._path.read_text())
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, state: State) -> None:
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(state.render())
        unfinished.replace(self._path)

    def record(self, name: str, process: Process) -> None:
        """Remember a process under its name."""
        with self._lock:
            if state := self.read():
                self.write(replace(state, processes={**state.processes, name: process}))
