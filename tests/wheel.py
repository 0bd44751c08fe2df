"""Install the built wheel into an empty environment, away from the sources, and run its commands."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def main(dist: Path) -> None:
    """Run `lull version` and a render from an environment that has only the newest wheel in `dist`."""
    wheel = max(dist.glob("lull_operator-*.whl"), key=lambda path: path.stat().st_mtime).resolve()
    example = Path("crds/examples/minimal.yaml").resolve()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, "env"], cwd=folder, check=True)
        subprocess.run(
            ["uv", "pip", "install", "--quiet", "--python", "env/bin/python", str(wheel)], cwd=folder, check=True
        )
        for arguments in (["version"], ["render", str(example)], ["operator", "--help"], ["gateway", "--help"]):
            output = subprocess.run(
                ["env/bin/lull", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            if not output.strip():
                raise SystemExit(f"lull {' '.join(arguments)} printed nothing")
    print(f"{wheel.name}: installs and runs in an empty environment")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
