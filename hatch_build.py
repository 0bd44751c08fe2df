"""Compiles the gateway's hot path with mypyc into the wheel, where that is asked for (docs/adr/0010-compiled.md).

`HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 uv build --wheel` makes a wheel for this platform and this version of Python. Without
it the wheel is pure Python, and so is an editable installation. The source tree stays as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SETTINGS: Final = """\
[mypy]
cache_dir = {cache}
explicit_package_bases = True
ignore_missing_imports = True
follow_untyped_imports = True
mypy_path = {source}
plugins = pydantic.mypy
"""


class CompiledBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds extension modules beside the modules that they are made from."""

    _folder: TemporaryDirectory[str]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self._folder = TemporaryDirectory(prefix="lull-compiled-")
        source = Path(self.root, "operator")
        modules = [str(source / module) for module in self.config["modules"]]
        built = compile_modules(source, modules, Path(self._folder.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update({str(path): str(path.relative_to(at)) for at, path in built})

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()
