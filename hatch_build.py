"""Compiles modules of the wheel with mypyc, where that is asked for (docs/adr/0010-compiled-gateway.md).

`HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 uv build --wheel` makes a wheel for this platform and this version of Python. Without
the variable it is pure Python, as editable installations always are. The source tree stays as it is.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCE: Final = "operator"
_GROUP: Final = "lull"
"""All modules are one library, `lull__mypyc`, so that calls between them stay calls in C."""
_SETTINGS: Final = """\
[mypy]
cache_dir = {folder}/mypy
mypy_path = {source}
explicit_package_bases = True
ignore_missing_imports = True
plugins = pydantic.mypy
"""


class CompiledBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds to the wheel the extension modules that Python prefers to the sources beside them."""

    _folder: TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self._folder = TemporaryDirectory(prefix="lull-compiled-")
        folder = Path(self._folder.name)
        source = Path(self.root, _SOURCE)
        modules = [str(path) for pattern in self.config["modules"] for path in _find(source, pattern)]
        _check_compiler()
        built = _compile(source, modules, folder)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= {str(path): path.relative_to(built).as_posix() for path in built.rglob("*.so")}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if self._folder is not None:
            self._folder.cleanup()


def _find(source: Path, pattern: str) -> list[Path]:
    found = sorted(source.glob(pattern))
    if not found:
        raise FileNotFoundError(f"pyproject.toml names {pattern} to be compiled, and there is none in {source}")
    return found


def _check_compiler() -> None:
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        raise RuntimeError(f"compiling needs a C compiler, and there is no {compiler}: apt-get install gcc libc6-dev")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise RuntimeError(f"compiling needs Python's headers, and there is no {header}: apt-get install python3-dev")


def _compile(source: Path, modules: list[str], folder: Path) -> Path:
    """Where the extension modules are, laid out as they are to be installed."""
    from setuptools import Distribution  # noqa: PLC0415  it must come before mypyc, which asks whether it is there
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    from mypyc.build import mypycify  # noqa: PLC0415  isort:skip

    settings = folder / "mypy.ini"
    settings.write_text(_SETTINGS.format(folder=folder, source=source))
    # A file for each module takes no longer at run time, and several of them are compiled at once.
    extensions = mypycify(
        [f"--config-file={settings}", *modules],
        opt_level="2",
        debug_level="0",
        multi_file=True,
        target_dir=str(folder / "c"),
        group_name=_GROUP,
    )
    for extension in extensions:
        # Another compiler has other warnings.
        extension.extra_compile_args = [one for one in extension.extra_compile_args if one != "-Werror"]

    class Build(build_ext):  # type: ignore[misc]
        def build_extensions(self) -> None:
            alone = self.compiler.compile

            def compile_at_once(sources: list[str], **options: object) -> list[str]:
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    return [*chain.from_iterable(pool.map(lambda one: alone([one], **options), sources))]

            self.compiler.compile = compile_at_once
            super().build_extensions()

    built = folder / "built"
    command = Build(Distribution({"name": _GROUP, "ext_modules": extensions}))
    command.build_lib, command.build_temp, command.parallel = str(built), str(folder / "objects"), os.cpu_count()
    command.ensure_finalized()
    command.run()
    return built
