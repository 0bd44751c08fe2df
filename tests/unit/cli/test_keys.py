from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from lull.cli import app
from lull.core.keys import Keyring, parse_entry, parse_key

RUN = CliRunner()


def create(*options: str) -> tuple[str, dict[str, object]]:
    """The key, and its entry."""
    result = RUN.invoke(app, ["keys", "create", "team-a", "--print", *options])
    assert result.exit_code == 0, result.output
    (entry,) = yaml.safe_load(result.stdout).values()
    return result.stderr.split()[-1], entry


def test_a_printed_entry_knows_its_key() -> None:
    token, entry = create(
        "--models", "qwen, qwen-sql", "--rpm", "60", "--tpm", "1000", "--tpd", "5000", "--priority", "-3"
    )

    key = parse_key("team-a", entry)

    assert Keyring([key]).find(token.encode(), now=0.0) is key
    assert key.models == {"qwen", "qwen-sql"}
    assert (key.requests_per_minute, key.tokens_per_minute, key.tokens_per_day) == (60, 1000, 5000)
    assert key.priority == -3


def test_the_key_is_not_in_its_entry() -> None:
    token, entry = create("--note", "for Ada")

    assert token.rpartition("_")[2] not in str(entry)
    assert entry["note"] == "for Ada"


def test_no_two_keys_are_alike() -> None:
    assert len({create()[0] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 90 * 86_400), ("12h", 12 * 3600), ("1h30m", 5400), ("2999-01-31", None)]
)
def test_says_when_a_key_ends(text: str, seconds: int | None) -> None:
    entry = parse_entry("team-a", create("--expires", text)[1])

    assert entry.expires is not None
    assert entry.created is not None
    if seconds is None:
        assert entry.expires.isoformat() == "2999-01-31T00:00:00+00:00"
    else:
        assert (entry.expires - entry.created).total_seconds() == seconds


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["Team"], "is no id"),
        (["team-a", "--expires", "soon"], "write for example 90d"),
        (["team-a", "--expires", "2001-01-31"], "is in the past"),
        (["team-a", "--expires", "99999d", "--expires", "99999999d"], "write for example 90d"),
        (["team-a", "--models", "no spaces"], "key.models"),
        (["team-a", "--note", "x" * 513], "key.note"),
    ],
)
def test_says_what_is_wrong_and_makes_no_key(arguments: list[str], complaint: str) -> None:
    result = RUN.invoke(app, ["keys", "create", *arguments, "--print"])

    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("option", [("--rpm", "0"), ("--tpd", "-1"), ("--priority", "101")])
def test_numbers_out_of_range_are_told_by_their_option(option: tuple[str, str]) -> None:
    result = RUN.invoke(app, ["keys", "create", "team-a", "--print", *option])

    assert result.exit_code == 2
    assert option[0] in result.stderr
