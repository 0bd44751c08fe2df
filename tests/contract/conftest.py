"""Two engines with the same command line: real vLLM from the engine-cpu image, and engine-sim from this tree."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from e2e.images import ROOT, Settings, running
from images.tiny import make_adapters, make_model
from tests.fakes.ports import free_port

_START_SECONDS = 600
_PAUSE = 0.25
_FLAGS = (
    *("--served-model-name", "tiny", "tiny-alias", "--host", "127.0.0.1", "--enforce-eager", "--max-model-len", "2048"),
    *("--max-num-seqs", "4", "--max-num-queued-reqs", "8", "--enable-lora", "--max-loras", "2"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
)
_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_HOST_IP": "127.0.0.1",
}


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine, as its clients see it."""

    name: str
    client: httpx.Client
    folder: str
    process: subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Pair:
    """The engine that is right by definition, and the one that is held to it."""

    real: Engine
    sim: Engine

    def __iter__(self) -> Iterator[Engine]:
        return iter((self.real, self.sim))


@dataclass(frozen=True, slots=True)
class Behind:
    """Where a gateway in front of an engine is to look for it."""

    port: int


Starter = Callable[[list[str]], AbstractContextManager[Pair]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tiny model and its adapters, readable by the image's user."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "model")
    make_adapters(folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture(scope="session")
def start(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Starter:
    """Start both engines with more flags than the common ones."""

    @contextmanager
    def starter(flags: list[str]) -> Iterator[Pair]:
        logs = tmp_path_factory.mktemp("logs")
        with _real(models, flags, logs / "real.log") as real, _sim(models, flags, logs / "sim.log") as sim:
            yield Pair(real, sim)

    return starter


@pytest.fixture(scope="session")
def pair(start: Starter) -> Iterator[Pair]:
    """Start both once for all tests that leave them as they were."""
    with start([]) as both:
        yield both


@contextmanager
def _real(models: Path, flags: list[str], log: Path) -> Iterator[Engine]:
    port = free_port()
    arguments = ["/contract/model", "--port", str(port), *_FLAGS, *flags]
    settings = Settings(_ENVIRONMENT, {models: "/contract"})
    with running("engine-cpu", arguments, settings, log) as process:
        yield from _ready("real", port, "/contract", process, log)


@contextmanager
def _sim(models: Path, flags: list[str], log: Path) -> Iterator[Engine]:
    port = free_port()
    arguments = [str(models / "model"), "--port", str(port), *_FLAGS, *flags, "--sim-decode-tps", "300"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "images.enginesim", "serve", *arguments],
            cwd=ROOT,
            env={**os.environ, **_ENVIRONMENT},
            stdout=sink,
            stderr=sink,
        )
    try:
        yield from _ready("sim", port, str(models), process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()


def _ready(name: str, port: int, folder: str, process: subprocess.Popen[bytes], log: Path) -> Iterator[Engine]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        for _ in range(int(_START_SECONDS / _PAUSE)):
            if process.poll() is not None or _is_up(client):
                break
            time.sleep(_PAUSE)
        if not _is_up(client):
            pytest.fail(f"{name} did not start:\n{log.read_text(errors='replace')[-4000:]}")
        yield Engine(name, client, folder, process)


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def port_of(engine: Engine) -> int:
    port = engine.client.base_url.port
    assert port is not None
    return port
