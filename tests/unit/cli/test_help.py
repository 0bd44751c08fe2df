"""`--help` says what typer says, and loads next to nothing for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from lull.cli import app, render_help

COMMANDS = ["", "status", "why", "wake", "cost", "simulate", "keys", "keys create"]


@pytest.mark.parametrize("command", COMMANDS)
def test_says_what_typer_says(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = command.split()

    code = f"import sys; sys.argv = ['lull', *{words!r}, '--help']; from lull.cli import app; app(prog_name='lull')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert f"{render_help('lull', words)}\n" == said


@pytest.mark.parametrize("words", [["nothing"], ["status", "llama"], ["keys", "nothing"], ["-n"]])
def test_leaves_to_typer_what_is_no_command(words: list[str]) -> None:
    assert render_help("lull", words) is None


@pytest.mark.parametrize("command", COMMANDS)
def test_loads_neither_lull_nor_what_is_slow_to_load(command: str) -> None:
    code = (
        f"import sys; sys.argv = ['lull', *{command.split()!r}, '--help']\n"
        "from lull.cli import main; main()\n"
        "slow = ('pydantic', 'rich', 'yaml', 'lull.core', 'lull.api', 'lull.doors')\n"
        "print([name for name in sys.modules if name.startswith(slow)])"
    )

    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert f"Usage: lull {command}" in output
    assert output.splitlines()[-1] == "[]"


def test_every_command_has_its_line() -> None:
    command = typer.main.get_command(app)

    assert isinstance(command, typer.core.TyperGroup)
    listed = render_help("lull", []) or ""
    assert all(f"  {name} " in listed for name in command.commands)
