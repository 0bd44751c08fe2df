"""Lull as it ships: a wheel whose hot path is compiled, built once for each state of the sources."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from e2e.cache import cache_folder
from e2e.cluster.tools import install_packages
from e2e.images.recipes import RECIPES, digest, inputs
from e2e.progress import step

_ROOT = Path(__file__).parents[1]
_KEPT = 4


def build_compiled(python: Path) -> Path:
    """Build the wheel for an interpreter, or find it in the cache."""
    version = subprocess.run([python, "-VV"], check=True, capture_output=True, text=True).stdout
    folder = cache_folder() / "wheels" / digest(RECIPES["lull"], _ROOT, f"{python} {version}")
    if not folder.exists():
        _install_compiler(python)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as unfinished,
            step(f"compile Lull for {python}"),
        ):
            # A copy of what the digest covers, so that nothing that changes meanwhile gets in.
            source, made = Path(unfinished, "source"), Path(unfinished, "made")
            for path in inputs(RECIPES["lull"], _ROOT):
                target = source / path.relative_to(_ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
            subprocess.run(
                [find_uv(), "build", "--quiet", "--wheel", "--python", python, "--out-dir", made, source],
                check=True,
                env=os.environ | {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": "1"},
            )
            made.replace(folder)
        _prune(folder.parent)
    folder.touch()
    return next(folder.glob("*.whl"))


def find_uv() -> str:
    return shutil.which("uv") or os.environ["UV"]


def _install_compiler(python: Path) -> None:
    """Install what is missing where that can be done without a question; the build says itself what it misses."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    asked = "import sysconfig; print(sysconfig.get_path('include'))"
    headers = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    missing = [] if shutil.which("gcc") else ["gcc", "libc6-dev"]
    if headers.startswith("/usr/include") and not Path(headers, "Python.h").exists():
        missing.append("python3-dev")
    if missing:
        install_packages(missing)


def _prune(folder: Path) -> None:
    kept = sorted(folder.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime, reverse=True)[:_KEPT]
    for old in set(folder.glob("[0-9a-f]*")) - set(kept):
        shutil.rmtree(old)
