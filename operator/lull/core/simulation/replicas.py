"""What one replica is: a preset, a model on a GPU, or its parameters one by one, from a YAML file."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields
from dataclasses import replace as with_fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

import yaml
from pydantic.alias_generators import to_camel

from lull.core.simulation.calibration import Engine, build_replica_model
from lull.core.simulation.presets import PRESETS
from lull.core.simulation.replica import ReplicaModel

if TYPE_CHECKING:
    from collections.abc import Mapping

_PARAMETERS: Final = {to_camel(field.name): field for field in fields(ReplicaModel)}
_ENGINE: Final = {to_camel(field.name): field for field in fields(Engine)}
_MOST: Final = 1e12
_RANKS: Final = re.compile(r"-tp([0-9]+)$")


class InvalidReplica(ValueError):  # noqa: N818  reads as what it says of the file
    """What is wrong, and what to write."""


@dataclass(frozen=True, slots=True)
class Replica:
    name: str
    model: ReplicaModel
    gpus: int


def find_preset(name: str) -> Replica:
    """The replica that a preset names; InvalidReplica lists those that there are."""
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InvalidReplica(f"there is no preset {name}: {hint}there are {', '.join(sorted(PRESETS))}")
    ranks = _RANKS.search(name)
    return Replica(name, PRESETS[name], int(ranks[1]) if ranks else 1)


def parse_replica(text: str, *, name: str) -> Replica:
    """Read `preset`, or `model` and `gpu` with what an engine is started with, or all parameters; and `gpus`.

    Beside a preset or a model, parameters stand for themselves.
    """
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidReplica(f"is no YAML: {error}") from error
    if not isinstance(given, dict):
        raise InvalidReplica("must hold preset, or model and gpu, or the parameters of a replica")
    known = {*_PARAMETERS, *_ENGINE, "preset", "model", "gpu", "gpus"}
    if unknown := sorted(str(key) for key in given if key not in known):
        raise InvalidReplica(f"{unknown[0]} is no parameter; there are: {', '.join(sorted(known))}")
    base = _find_base(given, name)
    parameters = _read(given, _PARAMETERS)
    gpus = _read_count(given, "gpus", base.gpus if base is not None else 1)
    if base is not None:
        return Replica(name, with_fields(base.model, **parameters), gpus)
    needed = [key for key, field in _PARAMETERS.items() if field.default is MISSING]
    if missing := [key for key in needed if key not in given]:
        raise InvalidReplica(f"lacks {', '.join(missing)}: give them, or preset, or model and gpu")
    return Replica(name, ReplicaModel(**parameters), gpus)


def _find_base(given: Mapping[str, Any], name: str) -> Replica | None:
    if "preset" in given:
        return find_preset(str(given["preset"]))
    if "model" not in given and "gpu" not in given:
        return None
    if "model" not in given or "gpu" not in given:
        raise InvalidReplica("model and gpu go together")
    engine = Engine(**_read(given, _ENGINE))
    try:
        model = build_replica_model(str(given["model"]), str(given["gpu"]), engine)
    except ValueError as error:
        raise InvalidReplica(str(error)) from error
    return Replica(name, model, engine.tensor_parallel)


def _read(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are given, by the names that the types have."""
    values: dict[str, Any] = {}
    for key, field in known.items():
        if key not in given:
            continue
        value, kind = given[key], next(one for one in ("str", "float", "int") if one in str(field.type))
        if kind == "int":
            values[field.name] = _read_count(given, key, 0)
        elif kind == "float":
            values[field.name] = _read_number(key, value)
        else:
            values[field.name] = str(value)
    return values


def _read_number(key: str, value: Any) -> float:  # noqa: ANN401  whatever a file holds
    try:
        # YAML 1.1 takes 1e-7 for text, as it lacks a dot.
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < _MOST:
        raise InvalidReplica(f"{key} is {value!r}: write a number, 0 or more")
    if key == "knee" and number < 1:
        raise InvalidReplica(f"knee is {value}: write 1 or more")
    return number


def _read_count(given: Mapping[str, Any], key: str, default: int) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
        raise InvalidReplica(f"{key} is {value!r}: write a whole number")
    if value < 1 and key in {"gpus", "maxNumSeqs", "maxNumBatchedTokens", "kvTokens", "tensorParallel"}:
        raise InvalidReplica(f"{key} is {value}: write 1 or more")
    return value
