from __future__ import annotations

import io
import tarfile
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lull.fetcher import archives
from lull.fetcher.archives import Entry
from lull.fetcher.failures import Failed

NAMES = st.lists(
    st.sampled_from(["models", "..", ".", "", "a", "b.bin", "config.json", ".wh.a", ".wh..wh..opq", "/", "x\ny"]),
    min_size=1,
    max_size=4,
).map("/".join)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])


def entry(path: str, size: int = 1) -> Entry:
    return Entry(path, size, number=0)


def test_later_archives_hide_and_take_away() -> None:
    tree = archives.overlay(
        [
            [entry("models/config.json", 1), entry("models/a.bin"), entry("other/b"), entry("gone/c")],
            [entry("models/config.json", 2), Entry("models/.wh.a.bin"), Entry("gone/.wh..wh..opq"), entry("gone/d")],
        ]
    )

    assert {path: found.size for path, found in tree.items()} == {"models/config.json": 2, "other/b": 1, "gone/d": 1}


@pytest.mark.parametrize(
    ("paths", "root"),
    [
        (["config.json", "sub/config.json"], ""),
        (["etc/config.json", "models/config.json"], "models/"),
        (["config.json", "models/a/config.json"], "models/a/"),
        (["models/a/b/config.json", "models/c/config.json"], "models/c/"),
        (["adapter_config.json", "models/a/config.json"], "models/a/"),
        (["adapters/a/adapter_config.json"], "adapters/a/"),
    ],
)
def test_finds_the_models_folder(paths: list[str], root: str) -> None:
    files = {path: entry(path) for path in [*paths, f"{root}model.safetensors"]}

    assert "model.safetensors" in archives.find_model(files, at_the_root=False)


def test_a_tree_without_a_model_is_said_to_have_none() -> None:
    with pytest.raises(Failed, match=r"holds no config\.json"):
        archives.find_model({"a": entry("a")}, at_the_root=False)


def test_stops_when_told_to(tmp_path: Path) -> None:
    stopped = Event()
    stopped.set()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("config.json")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"12345"))

    with pytest.raises(Failed, match="stopped"):
        archives.unpack(tmp_path / "a.tar", tmp_path / "out", stopped)

    assert not (tmp_path / "out" / archives.INDEX).exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=6))
def test_no_archive_leaves_its_folder(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind, linked in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, linked
            tar.addfile(member)
    before = set(tmp_path.parent.iterdir())

    with suppress(Failed):
        archives.unpack(tmp_path / "a.tar", tmp_path / "out", Event())
        model = archives.find_model(archives.overlay([archives.read_index(tmp_path / "out")]), at_the_root=True)
        assert all(".." not in Path(path).parts and not Path(path).is_absolute() for path in model)
        assert all(found.number is not None for found in model.values())

    assert set(tmp_path.parent.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"a.tar", "out"}
    assert not any(path.is_symlink() or path.is_dir() for path in (tmp_path / "out").iterdir())
