"""Builds Lull's images into archives that any containerd imports; unchanged inputs are not built again."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.images.builders import Builder, Job, choose_builder
from e2e.images.progress import BuildError, say, step
from e2e.images.recipes import RECIPES, Recipe, digest, inputs
from e2e.images.settings import write_secrets

__all__ = ["ROOT", "BuildError", "Image", "build", "cache_folder", "reference_of"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Image:
    """What a pod names, and the file that a node imports."""

    reference: str
    archive: Path


def cache_folder() -> Path:
    """LULL_CACHE, or `lull` in the user's cache folder."""
    if "LULL_CACHE" in os.environ:
        return Path(os.environ["LULL_CACHE"]).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lull"


def build(names: Iterable[str] = tuple(RECIPES)) -> dict[str, Image]:
    """Build the named images, each only if its archive is not there yet."""
    recipes = [_recipe(name) for name in names]
    cache = cache_folder()
    builder = choose_builder(cache)
    with _alone(cache):
        return {recipe.name: _ensure(recipe, builder, cache) for recipe in recipes}


def reference_of(name: str, builder: Builder) -> str:
    """Name the image in full, as containerd knows it; pods may leave `docker.io/` out."""
    return f"docker.io/lull/{name}:dev-{digest(_recipe(name), ROOT, builder.base)}"


def _ensure(recipe: Recipe, builder: Builder, cache: Path) -> Image:
    full = reference_of(recipe.name, builder)
    hexadecimal = full.rsplit("-", 1)[1]
    image = Image(full.removeprefix("docker.io/"), cache / "images" / f"{recipe.name}-{hexadecimal}.tar")
    if image.archive.exists():
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
    _prune(recipe.name, image.archive)
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


def _prune(name: str, keep: Path) -> None:
    digits = "[0-9a-f]" * 12
    for archive in keep.parent.glob(f"{name}-{digits}.tar"):
        if archive != keep:
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
