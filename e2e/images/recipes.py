"""What each image is made of, and the digest that names it: unchanged inputs are not built again."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_IGNORED = ("__pycache__", ".pyc")


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image's Dockerfile and the files that its build may see, relative to the repository's root."""

    name: str
    dockerfile: str
    sources: tuple[str, ...]
    keep_steps: bool = True
    """Whether steps stay as a cache: right where code changes often, a waste where a step is a gigabyte."""


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "lull",
            "images/lull/Dockerfile",
            ("pyproject.toml", "uv.lock", "README.md", "LICENSE", "hatch_build.py", "operator/lull"),
        ),
        Recipe(
            "engine-sim", "images/engine-sim/Dockerfile", ("images/engine-sim", "images/enginesim", "images/hub.py")
        ),
        Recipe(
            "engine-cpu",
            "images/engine-cpu/Dockerfile",
            ("images/engine-cpu", "images/hub.py", "images/tiny.py"),
            keep_steps=False,
        ),
        Recipe("prometheus", "images/prometheus/Dockerfile", ("images/prometheus",)),
    )
}


def inputs(recipe: Recipe, root: Path) -> list[Path]:
    """Every file that the build sees, sorted; a missing source is an error of the recipe."""
    found = {root / recipe.dockerfile}
    for source in recipe.sources:
        path = root / source
        if not path.exists():
            raise FileNotFoundError(f"image {recipe.name} is made from {source}, which is not there")
        found.update(_files(path))
    return sorted(found)


def digest(recipe: Recipe, root: Path, base: str) -> str:
    """Twelve hex digits over the paths and contents of the inputs and the identity of the base image."""
    return digest_of([base.encode(), *_fields(inputs(recipe, root), root)])


def digest_of(fields: Iterable[bytes]) -> str:
    """Twelve hex digits over byte strings, each with its length, so that no two lists of fields look alike."""
    state = hashlib.sha256()
    for field in fields:
        state.update(len(field).to_bytes(8, "big"))
        state.update(field)
    return state.hexdigest()[:12]


def _fields(paths: Iterable[Path], root: Path) -> Iterator[bytes]:
    for path in paths:
        yield path.relative_to(root).as_posix().encode()
        yield path.read_bytes()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for child in path.iterdir():
        if not child.name.endswith(_IGNORED):
            yield from _files(child)
