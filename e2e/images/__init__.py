"""Builds Lull's images into archives that any containerd imports; unchanged inputs are not built again."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from e2e.cache import cache_folder
from e2e.images.builders import Builder, Job, Settings, choose_builder
from e2e.images.commands import BuildError
from e2e.images.recipes import RECIPES, Recipe, digest, inputs
from e2e.images.settings import write_secrets
from e2e.progress import say, step

__all__ = ["ROOT", "BuildError", "Image", "Settings", "build", "reference_of", "running"]

_KEPT_ARCHIVES = 2
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Image:
    """What a pod names, and the file that a node imports."""

    reference: str
    archive: Path


def build(names: Iterable[str] = tuple(RECIPES)) -> dict[str, Image]:
    """Build the named images, each only if its archive is not there yet."""
    recipes = [_recipe(name) for name in names]
    cache = cache_folder()
    builder = choose_builder(cache)
    with _alone(cache):
        return {recipe.name: _ensure(recipe, builder, cache) for recipe in recipes}


@contextmanager
def running(name: str, arguments: list[str], settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a container of the image on the machine's own network, its output in the log; take it away at the end."""
    image = build([name])[name]
    cache = cache_folder()
    builder = choose_builder(cache)
    full = f"docker.io/{image.reference}"
    if not builder.has(full):
        builder.load(image.archive, log)
    container = builder.container(full, f"lull-{name}-{os.getpid()}-{time.monotonic_ns()}", arguments, settings)
    with log.open("ab") as sink:
        # Its own session, so that the whole family can be told to end, and an interrupt at the terminal is not told twice.
        process = subprocess.Popen(container.start, stdout=sink, stderr=sink, start_new_session=True)
    try:
        yield process
    finally:
        _end(process)
        subprocess.run(container.remove, capture_output=True, check=False)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)


def reference_of(name: str, builder: Builder) -> str:
    """Name the image in full, as containerd knows it; pods may leave `docker.io/` out."""
    return f"docker.io/lull/{name}:dev-{digest(_recipe(name), ROOT, builder.base)}"


def _ensure(recipe: Recipe, builder: Builder, cache: Path) -> Image:
    full = reference_of(recipe.name, builder)
    hexadecimal = full.rsplit("-", 1)[1]
    image = Image(full.removeprefix("docker.io/"), cache / "images" / f"{recipe.name}-{hexadecimal}.tar")
    if image.archive.exists():
        image.archive.touch()
        say(f"  ✓ {image.reference}  is built")
        return image
    builder.prepare()
    log = cache / "images" / f"{recipe.name}.log"
    log.unlink(missing_ok=True)
    if not builder.has(full):
        with step(f"{image.reference}  build"), tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as folder:
            builder.build(_job(recipe, Path(folder), full, builder.base, log))
    with step(f"{image.reference}  export"):
        _save(builder, full, image.archive, log)
    _prune(recipe.name, image.archive.parent)
    builder.prune(f"docker.io/lull/{recipe.name}", full)
    return image


def _job(recipe: Recipe, folder: Path, reference: str, base: str, log: Path) -> Job:
    """Copy the inputs, so that what is built is exactly what the digest covers."""
    context, secrets = folder / "context", folder / "secrets"
    for path in inputs(recipe, ROOT):
        target = context / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    secrets.mkdir(mode=0o700)
    return Job(context, recipe.dockerfile, reference, base, write_secrets(secrets), log, recipe.keep_steps)


def _save(builder: Builder, reference: str, archive: Path, log: Path) -> None:
    unfinished = archive.with_name(f".{archive.name}.{os.getpid()}")
    try:
        builder.save(reference, unfinished, log)
        unfinished.replace(archive)
    finally:
        unfinished.unlink(missing_ok=True)


def _prune(name: str, folder: Path) -> None:
    """Keep the archives that were used last: another checkout may go back and forth between two of them."""
    archives = folder.glob(f"{name}-{'[0-9a-f]' * 12}.tar")
    for archive in sorted(archives, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT_ARCHIVES:]:
        archive.unlink()


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One build at a time per cache; a second one waits and then finds the work done."""
    folder = cache / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise BuildError(f"there is no image {name}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
