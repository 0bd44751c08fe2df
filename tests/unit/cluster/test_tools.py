"""What is built, and from what."""

from pathlib import Path

import pytest

from e2e.cluster import tools
from e2e.cluster.processes import Process
from e2e.cluster.state import State, StateFile


@pytest.mark.parametrize(
    "binary", [*tools.BINARIES, *tools.STORES, tools.HELM_UNITTEST], ids=lambda binary: binary.name
)
def test_every_program_is_pinned_by_a_committed_module(binary: tools.Binary) -> None:
    module = Path(tools.__file__).parent / "go" / binary.module / "go.mod"

    pinned = module.read_text()

    assert f"module lull.dev/e2e/cluster/{binary.module}" in pinned
    assert binary.package == "." or binary.package in pinned


def test_builds_from_the_committed_files_alone() -> None:
    argv = tools.build_argv(Path("/go"), tools.KUBECTL, Path("/out"))

    assert argv[:3] == ["/go", "build", "-mod=readonly"]
    assert "v1.34.4" in argv[argv.index("-ldflags") + 1]


def test_every_input_of_a_build_changes_its_name(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module a")
    names = {tools.digest_of("go1.26.6", tmp_path, ""), tools.digest_of("go1.26.7", tmp_path, "")}
    names.add(tools.digest_of("go1.26.6", tmp_path, "-s"))
    (tmp_path / "go.mod").write_text("module b")
    names.add(tools.digest_of("go1.26.6", tmp_path, ""))

    assert len(names) == 4


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.8", (1, 26)), ("Client Version: v1.34.4", (1, 34)), ("v4.3.1+g1", (4, 3)), ("none", (0, 0))],
)
def test_reads_a_version_out_of_what_a_program_says(text: str, version: tuple[int, int]) -> None:
    assert tools.parse_version(text) == version


def test_names_all_missing_packages_at_once(tmp_path: Path) -> None:
    missing = tools.missing_packages(lambda _: None, [tmp_path])

    assert missing == sorted({*tools.DEBIAN_PACKAGES.values(), "containernetworking-plugins"})


def test_nothing_is_missing_where_everything_is_found(tmp_path: Path) -> None:
    for name in tools.CNI_PLUGINS:
        (tmp_path / name).touch()

    assert tools.missing_packages(lambda name: name, [tmp_path]) == []


def test_the_state_survives_the_disk_and_nonsense_is_no_state(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    assert file.read() is None

    file.write(State(boot="b", settings={"a.b": "1"}, absent=("/x",), processes={}))
    file.record("etcd", Process(1, 2))

    assert file.read() == State(boot="b", settings={"a.b": "1"}, absent=("/x",), processes={"etcd": Process(1, 2)})
    (tmp_path / "state.json").write_text("{}")
    assert file.read() is None
