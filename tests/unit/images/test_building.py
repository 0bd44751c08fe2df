"""Digests, settings of the package index, and the library that stands in for CUDA."""

import ctypes
import importlib.util
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.images import ROOT
from e2e.images.recipes import RECIPES, Recipe, digest, digest_of, inputs
from e2e.images.settings import index_settings, render_environment, write_secrets

_spec = importlib.util.spec_from_file_location("stub", ROOT / "images/engine-cpu/stub.py")
assert _spec is not None
assert _spec.loader is not None
stub = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stub)


@given(st.lists(st.binary()), st.lists(st.binary()))
def test_no_two_lists_of_fields_share_a_digest(one: list[bytes], other: list[bytes]) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)


def test_the_digest_follows_contents_and_base_and_nothing_else(tmp_path: Path) -> None:
    recipe = Recipe("x", "Dockerfile", ("src",))
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    (tmp_path / "src/__pycache__").mkdir(parents=True)
    (tmp_path / "src/a.py").write_text("1")
    before = digest(recipe, tmp_path, "base")

    (tmp_path / "src/__pycache__/a.pyc").write_text("bytecode")
    (tmp_path / "README.md").write_text("not an input")
    unrelated = digest(recipe, tmp_path, "base")
    other_base = digest(recipe, tmp_path, "other")
    (tmp_path / "src/a.py").write_text("2")
    other_code = digest(recipe, tmp_path, "base")

    assert unrelated == before
    assert len({before, other_base, other_code}) == 3


@pytest.mark.parametrize("name", RECIPES)
def test_every_image_has_its_inputs_and_a_base_that_can_be_chosen(name: str) -> None:
    recipe = RECIPES[name]

    dockerfile = (ROOT / recipe.dockerfile).read_text()

    assert inputs(recipe, ROOT)
    assert "ARG BASE=" in dockerfile
    assert (ROOT / f"{recipe.dockerfile}.dockerignore").is_file()


def test_a_machine_with_nothing_of_its_own_needs_no_environment() -> None:
    assert render_environment(index_settings({}, [], []), has_bundle=False) == ""


def test_uv_follows_the_index_that_pip_was_given(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://pypi.example/simple\ncert = /ca.pem\n")

    found = index_settings({"PIP_RETRIES": "9"}, [tmp_path / "pip.conf"], [])

    assert found == {
        "PIP_INDEX_URL": "https://pypi.example/simple",
        "UV_DEFAULT_INDEX": "https://pypi.example/simple",
        "PIP_RETRIES": "9",
    }


def test_uvs_own_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "uv.toml").write_text(
        '[[index]]\nurl = "https://a.example"\ndefault = true\n[[index]]\nurl = "https://b"\n'
    )

    assert index_settings({}, [], [tmp_path / "uv.toml"]) == {
        "UV_DEFAULT_INDEX": "https://a.example",
        "UV_INDEX": "https://b",
    }


def test_the_named_bundle_travels_as_a_secret(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("certificate")

    secrets = write_secrets(tmp_path, {"SSL_CERT_FILE": str(bundle), "HOME": str(tmp_path)})

    assert secrets["ca-bundle"].read_text() == "certificate"
    assert "export SSL_CERT_FILE=/run/secrets/ca-bundle\n" in secrets["environment"].read_text()


_MACHINE = {"x86_64": 62, "aarch64": 183}.get(platform.machine(), 62)


def test_the_stand_in_reads_back_as_it_was_written(tmp_path: Path) -> None:
    symbols = {"cudaFree": "libcudart.so.13", "_ZN2at4cuda5sleepEl": "", "_ZTIN4c10d4NCCLE": "", "_ZN1AC1Eb": ""}
    path = tmp_path / "libabsent.so"

    path.write_bytes(stub.render_library(path.name, symbols, _MACHINE))
    library = stub.parse_library(path)

    assert library.defined == {*symbols, "_ZTI6absent"}
    assert library.sought == {}


def test_the_stand_in_loads_and_says_that_there_is_no_device(tmp_path: Path) -> None:
    path = tmp_path / "libabsent.so"
    path.write_bytes(stub.render_library(path.name, {"cudaGetDeviceCount": "", "_ZN2at4flagEv": ""}, _MACHINE))

    loaded = ctypes.CDLL(str(path))
    reference = loaded["_ZN2at4flagEv"]
    reference.restype = ctypes.c_void_p

    assert loaded["cudaGetDeviceCount"]() == 100
    assert ctypes.string_at(reference(), 64) == bytes(64)


def test_missing_symbols_are_those_that_nothing_reachable_defines(tmp_path: Path) -> None:
    user = stub.Library(
        tmp_path / "user.so", _MACHINE, frozenset({"gone.so", "here.so"}), frozenset(), {"lost": "", "found": ""}
    )
    here = stub.Library(tmp_path / "here.so", _MACHINE, frozenset(), frozenset({"found"}), {})
    stranger = stub.Library(tmp_path / "stranger.so", _MACHINE, frozenset(), frozenset({"lost"}), {})

    missing = stub.missing_names([user, here, stranger])

    assert missing == {"gone.so"}
    assert stub.missing_symbols([user, here, stranger], missing) == {"lost": ""}
