"""Install the built wheels into empty environments, away from the sources, and run them: commands, and the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from e2e.wheels import build_compiled

_ROOT: Final = Path(__file__).parents[1]
_COMPILED_TESTS: Final = (
    *("tests/hostile", "tests/properties", "tests/unit/gateway", "tests/unit/wire"),
    *("tests/unit/doors/test_access_log.py", "tests/unit/doors/test_gateway_metrics.py"),
    *(
        f"tests/unit/core/test_{name}.py"
        for name in ("admission", "affinity", "catalogue", "keys", "limits", "routing")
    ),
)
"""Those of what is compiled."""
_NEEDED: Final = ("crds", "docs", "images", "pyproject.toml", "tests")
"""What tests read, besides the package."""


def main(dist: Path) -> None:
    """Test the newest wheel in `dist`, which is pure Python, and the compiled one."""
    pure = max(dist.glob("lull_operator-*-py3-none-any.whl"), key=lambda path: path.stat().st_mtime).resolve()
    with tempfile.TemporaryDirectory() as folder:
        _try_commands(Path(folder), pure)
    compiled = build_compiled(Path(sys.executable))
    with tempfile.TemporaryDirectory() as folder:
        _try_commands(Path(folder), compiled)
        _run_tests(Path(folder))


def _try_commands(folder: Path, wheel: Path) -> None:
    """Run `lull version`, a render and helps from an environment that has only the wheel."""
    example = Path("crds/examples/minimal.yaml").resolve()
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, "env"], cwd=folder, check=True)
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", "env/bin/python", wheel], cwd=folder, check=True)
    for arguments in (["version"], ["render", str(example)], ["operator", "--help"], ["gateway", "--help"]):
        output = subprocess.run(
            ["env/bin/lull", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        if not output.strip():
            raise SystemExit(f"lull {' '.join(arguments)} printed nothing")
    print(f"{wheel.name}: installs and runs in an empty environment")


def _run_tests(folder: Path) -> None:
    """Run the tests of what is compiled from a folder without sources."""
    requirements = folder / "requirements.txt"
    subprocess.run(
        [
            *("uv", "export", "--quiet", "--locked", "--only-group", "test", "--only-group", "cluster"),
            *("--no-emit-project", "--no-hashes", "--output-file", requirements),
        ],
        cwd=_ROOT,
        check=True,
    )
    subprocess.run(
        ["uv", "pip", "install", "--quiet", "--python", "env/bin/python", "--requirements", requirements],
        cwd=folder,
        check=True,
    )
    for name in _NEEDED:
        source = _ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    where = subprocess.run(
        ["env/bin/python", "-c", "import lull.gateway.door; print(lull.gateway.door.__file__)"],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    if not (where.startswith(str(folder)) and where.endswith(".so")):
        raise SystemExit(f"the tests would run {where}, which is not the compiled wheel's")
    subprocess.run(
        ["env/bin/python", "-m", "pytest", "-q", "-n", "2", "--dist=worksteal", *_COMPILED_TESTS],
        cwd=folder,
        check=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
