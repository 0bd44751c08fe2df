"""What the benchmark runs: the mock engine and the load generator from beside this file, vllm-router, and Lull."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from e2e.cache import cache_folder
from e2e.cluster.tools import Binary, build_binary
from e2e.progress import step
from e2e.wheels import build_compiled, find_uv

ROUTER: Final = "vllm-router==0.1.17"

_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parents[1]
_DISTRIBUTION_PYTHON: Final = Path("/usr/bin/python3")
_AT_LEAST: Final = (3, 11)


def build_engine() -> str:
    """Build the mock engine, or find it in the cache."""
    return str(build_binary(Binary("mock-engine", "engine", ".", folder=_HERE)))


def build_load() -> str:
    """Build the load generator, or find it in the cache."""
    return str(build_binary(Binary("load", "load", ".", folder=_HERE)))


def install_router() -> str:
    """Install vllm-router from PyPI into an environment of its own, or find it in the cache."""
    environment = cache_folder() / ROUTER.replace("==", "-")
    program = environment / "bin" / "vllm-router"
    whole = environment / ".whole"
    if not whole.exists():
        python = environment / "bin" / "python"
        with step(f"install {ROUTER} from PyPI"):
            subprocess.run([find_uv(), "venv", "-q", "--clear", "--python", sys.executable, environment], check=True)
            subprocess.run([find_uv(), "pip", "install", "-q", "--python", python, ROUTER], check=True)
            whole.touch()
    return str(program)


def install_lull() -> str:
    """Install this tree's Lull, compiled as it ships, for the interpreter of the distribution, where that is new enough, else for this one.

    Distributions and the images' base build CPython with profile-guided optimization. What pyenv builds does without,
    and takes a sixth more time for each request.
    """
    python = _DISTRIBUTION_PYTHON if _find_version(_DISTRIBUTION_PYTHON) >= _AT_LEAST else Path(sys.executable)
    environment = cache_folder() / "bench-lull"
    wheel = build_compiled(python)
    with step(f"install Lull for {python}"):
        subprocess.run(
            [
                *(find_uv(), "sync", "-q", "--locked", "--no-dev", "--no-install-project"),
                *("--project", _ROOT, "--python", python),
            ],
            check=True,
            env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment)},
        )
        installed = environment / "bin" / "python"
        subprocess.run(
            [find_uv(), "pip", "install", "-q", "--no-deps", "--reinstall", "--python", installed, wheel], check=True
        )
    return str(environment / "bin" / "lull")


def _find_version(python: Path) -> tuple[int, ...]:
    try:
        said = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return (0,)
    return tuple(int(part) for part in said.split()[-1].split(".")[:2])
