"""What Lull reads out of vLLM's answers about adapters, in real vLLM's words and in engine-sim's."""

import pytest

from lull.core.adapters import parse_loaded, record_refusal
from tests.contract.conftest import Engine, Pair

pytestmark = [pytest.mark.contract, pytest.mark.timeout(1500)]

_LOAD, _UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def _load(engine: Engine, name: str, folder: str, **more: bool) -> tuple[int, bytes]:
    body = {"lora_name": name, "lora_path": f"{engine.folder}/{folder}", **more}
    answer = engine.client.post(_LOAD, json=body)
    return answer.status_code, answer.content


def _loaded(engine: Engine) -> dict[str, str]:
    paths = parse_loaded(engine.client.get("/v1/models").content)
    return {name: path.removeprefix(f"{engine.folder}/") for name, path in paths.items()}


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("lora-r64", "rank 64 is over spec.adapters.maxRank, 16"),
        ("lora-badshape", "do not fit the model"),
        ("lora-badmodule", "modules that the model lacks"),
    ],
)
def test_what_can_never_be_loaded_is_understood(pair: Pair, folder: str, words: str) -> None:
    for engine in pair:
        setback = record_refusal(None, *_load(engine, "wrong", folder), now=0.0)

        assert setback is not None, engine.name
        assert setback.is_final, engine.name
        assert words in setback.message, engine.name
        assert _loaded(engine) == {}, engine.name


def test_files_that_are_not_there_may_come(pair: Pair) -> None:
    for engine in pair:
        setback = record_refusal(None, *_load(engine, "early", "nowhere"), now=0.0)

        assert setback is not None, engine.name
        assert not setback.is_final, engine.name


def test_a_name_of_the_models_own_is_refused_for_good(pair: Pair) -> None:
    for engine in pair:
        setback = record_refusal(None, *_load(engine, "tiny-alias", "lora-a"), now=0.0)

        assert setback is not None, engine.name
        assert "give the adapter another one" in setback.message, engine.name


def test_what_is_loaded_is_read_off_the_list_by_name_and_path(pair: Pair) -> None:
    for engine in pair:
        assert record_refusal(None, *_load(engine, "fr", "lora-a"), now=0.0) is None
        assert record_refusal(None, *_load(engine, "fr", "lora-a"), now=0.0) is None
        assert _loaded(engine) == {"fr": "lora-a"}, engine.name

        assert record_refusal(None, *_load(engine, "fr", "lora-b", load_inplace=True), now=0.0) is None
        assert _loaded(engine) == {"fr": "lora-b"}, engine.name

        assert engine.client.post(_UNLOAD, json={"lora_name": "fr"}).status_code == 200
        assert _loaded(engine) == {}, engine.name
