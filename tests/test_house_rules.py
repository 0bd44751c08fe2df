"""Rules that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "operator" / "lull"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTABLE_CALLS = {"list", "dict", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray"}
EDGE_TRIGGERED = {"old", "new", "diff", "retry"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> dict[str, str]:
    found = {}
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content and path != Path(__file__):
            found[relative(path)] = content.decode()
    return found


def test_operator_is_a_folder_and_not_a_package() -> None:
    # It would shadow the standard library's module.
    assert not (ROOT / "operator" / "__init__.py").exists()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_hold_no_mutable_objects(path: Path) -> None:
    """State belongs to whoever assembles a process; constants that only look mutable are declared Final."""
    offenders = []
    for statement in ast.parse(path.read_text()).body:
        match statement:
            case ast.Assign(value=value, targets=[ast.Name(id=name)]) if name != "__all__":
                pass
            case ast.AnnAssign(value=value, target=ast.Name(id=name), annotation=annotation) if not (
                ast.unparse(annotation).startswith("Final")
            ):
                pass
            case _:
                continue
        called = value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
        if isinstance(value, MUTABLE) or called in MUTABLE_CALLS:
            offenders.append(name)

    assert offenders == []


def test_handlers_are_level_triggered() -> None:
    tree = ast.parse((PACKAGE / "controller" / "handlers.py").read_text())

    arguments = {argument.arg for node in ast.walk(tree) if isinstance(node, ast.arguments) for argument in every(node)}

    assert not arguments & EDGE_TRIGGERED


def every(arguments: ast.arguments) -> list[ast.arg]:
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def test_execution_stays_short() -> None:
    assert len((PACKAGE / "controller" / "execute.py").read_text().splitlines()) <= 100


def test_nothing_is_left_for_later() -> None:
    unfinished = re.compile(r"\b(TODO|FIXME|XXX)\b|NotImplementedError")

    assert [name for name, text in texts().items() if unfinished.search(text) and not name.endswith(".sum")] == []


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    of_a_machine = re.compile(r"(?<![\w.}/-])/(work|root|home/(?!vllm/)[a-z]+|Users/[A-Za-z]+)/")

    assert [name for name, text in texts().items() if of_a_machine.search(text)] == []


def test_every_action_is_pinned_by_commit_and_every_job_has_an_end() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yaml"):
        workflow = path.read_text()
        uses = re.findall(r"uses: (\S+)", workflow)
        assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in uses), path
        assert workflow.count("runs-on:") == workflow.count("timeout-minutes:")
        assert "\npermissions: {}\n" in workflow
