"""What the benchmark runs besides Lull: the mock engine and the load generator from beside this file, and vllm-router."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from e2e.cache import cache_folder
from e2e.cluster.tools import Binary, build_binary
from e2e.progress import step

ROUTER: Final = "vllm-router==0.1.17"

_HERE: Final = Path(__file__).parent


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
        uv = shutil.which("uv") or os.environ["UV"]
        python = environment / "bin" / "python"
        with step(f"install {ROUTER} from PyPI"):
            subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, environment], check=True)
            subprocess.run([uv, "pip", "install", "-q", "--python", python, ROUTER], check=True)
            whole.touch()
    return str(program)
