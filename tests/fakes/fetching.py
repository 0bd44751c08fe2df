"""What the tests of the fetcher share: a model's files, and ways to look at what a run did."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

WEIGHTS = bytes(range(256)) * 20_000
FILES = {
    "config.json": b'{"model_type": "tiny", "num_attention_heads": 32, "num_key_value_heads": 8}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "README.md": b"# Tiny",
    "1_Pooling/config.json": b"{}",
}
WANTED = {"config.json", "model.safetensors", "1_Pooling/config.json"}
CHOSEN = {name: FILES[name] for name in WANTED}

# Nobody is asked for the credentials of the machine that runs the tests.
NO_MACHINE = {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:9", "GCE_METADATA_HOST": "127.0.0.1:9"}


class Journal:
    """What was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def __call__(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]

    def last(self, event: str) -> dict[str, object]:
        return [fields for name, fields in self.lines if name == event][-1]


class Command:
    """`lull fetch` as its own process, as it runs in a pod."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._arguments = arguments
        self._environment = {"PATH": os.environ["PATH"], **NO_MACHINE, **environment}

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from lull.cli import main; main()", "fetch", *self._arguments),
            env=self._environment,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self) -> tuple[int | None, list[str]]:
        process = await self.start()
        _, stderr = await process.communicate()
        return process.returncode, stderr.decode().splitlines()


def contents(target: Path) -> dict[str, bytes]:
    paths = (path for path in target.rglob("*") if path.is_file() and ".lull" not in path.parts)
    return {str(path.relative_to(target)): path.read_bytes() for path in paths}


def partials(target: Path) -> list[Path]:
    return list((target / ".lull").glob("*.partial"))
