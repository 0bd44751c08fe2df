"""Starts `vllm serve` with one import of its modules instead of three.

vLLM is three processes: the API server, the engine core and the worker. On a CPU each is spawned afresh and imports
torch and vLLM again, one after another, and that is nearly all of the time to the first answer. Here the first process
imports them once, then forks a nursery while it has no threads yet; later, when vLLM spawns a process, the nursery
forks it, with everything imported. vLLM's own files are untouched: what changes is what `multiprocessing` does when it
is asked to spawn. The nursery is Python's own fork server; only its start is ours, and that children get the
environment which their parent has at that moment, as spawned ones would.
"""

import atexit
import gc
import importlib
import os
import sys
import tempfile
from multiprocessing import context, forkserver, resource_tracker, spawn
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

_MODULES = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.model_executor.models.llama",
)
_ENVIRONMENT = "lull_environment"


def main() -> Any:
    if sys.argv[1:2] == ["serve"]:
        start_nursery()
    return importlib.import_module("vllm.entrypoints.cli.main").main()


def start_nursery() -> None:
    """Import what every process of vLLM needs, and fork the process that forks the others."""
    for module in _MODULES:
        importlib.import_module(module)
    _carry_environment()
    contexts: Any = context
    contexts._concrete_contexts["spawn"] = contexts._concrete_contexts["forkserver"]
    resource_tracker.ensure_running()
    address = str(Path(tempfile.mkdtemp(prefix="nursery-")) / "socket")
    alive_reader, alive_writer = os.pipe()
    with socket(AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        # There is no public way to bring a fork server of one's own.
        server: Any = forkserver._forkserver
        server._forkserver_address = address
        server.ensure_running = resource_tracker.ensure_running  # it runs, here and in every child
        # Objects that are never collected are never written to, so their pages stay shared.
        gc.collect()
        gc.freeze()
        if os.fork() == 0:
            os.close(alive_writer)
            try:
                forkserver.main(listener.detach(), alive_reader, preload=[])
            finally:
                os._exit(0)
    os.close(alive_reader)
    server._forkserver_alive_fd = alive_writer
    # The nursery ends when the last holder of this does. At its own end Python waits for the resource tracker, which
    # waits for the nursery, so it must be let go before.
    atexit.register(os.close, alive_writer)


def _carry_environment() -> None:
    """Let a child start with its parent's environment, not the nursery's."""
    module: Any = spawn
    describe, prepare = module.get_preparation_data, module.prepare

    def describe_with_environment(name: str) -> dict[str, Any]:
        return {**describe(name), _ENVIRONMENT: dict(os.environ)}

    def prepare_with_environment(described: dict[str, Any]) -> None:
        environment = described.pop(_ENVIRONMENT)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        prepare(described)

    module.get_preparation_data, module.prepare = describe_with_environment, prepare_with_environment


if __name__ == "__main__":
    sys.exit(main())
