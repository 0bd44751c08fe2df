"""Who a key belongs to, and what makes an entry one."""

from __future__ import annotations

import json
import math
import random

import pytest

from lull.core.keys import (
    ALPHABET,
    SECRET_LENGTH,
    InvalidKey,
    Keyring,
    build_keyring,
    digest_of,
    make_token,
    parse_entry,
    parse_key,
    render_entry,
)

NOW = 1_800_000_000.0
TOKEN = make_token("team-a", random.choice)
DIGEST = digest_of(TOKEN)


def keyring(token: str = TOKEN, **entry: object) -> Keyring:
    id_ = token.removeprefix("llmk_").rpartition("_")[0]
    found, wrong = build_keyring({id_: json.dumps({"sha256": digest_of(token), **entry})})
    assert wrong == {}
    return found


def test_a_key_has_128_bits_of_its_own() -> None:
    assert SECRET_LENGTH * math.log2(len(ALPHABET)) >= 128
    assert len(set(ALPHABET)) == len(ALPHABET)
    assert "_" not in ALPHABET


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER   {} ", "{}"])
def test_finds_a_key_with_and_without_its_scheme(header: str) -> None:
    found = keyring().find(header.format(TOKEN).encode(), now=NOW)

    assert found is not None
    assert found.id == "team-a"


@pytest.mark.parametrize("id_", ["a", "team-a.prod", "0" * 63])
def test_ids_are_read_out_of_the_key(id_: str) -> None:
    token = make_token(id_, random.choice)

    found = keyring(token).find(token.encode(), now=NOW)

    assert found is not None
    assert found.id == id_


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"llmk_team-a_",
        b"llmk_team-a",
        b"Bearer llmk__",
        TOKEN[:-1].encode(),
        TOKEN.encode() + b"0",
        TOKEN.swapcase().encode(),
        b"Basic " + TOKEN.encode(),
        make_token("team-a", random.choice).encode(),
        make_token("team-b", random.choice).encode(),
        b"Bearer " + b"\xff" * 40,
        b"Bearer " + b"a" * 1_000_000,
        bytes.fromhex(DIGEST),
    ],
)
def test_everything_else_is_nobody(header: bytes | None) -> None:
    assert keyring().find(header, now=NOW) is None


def test_an_empty_keyring_knows_nobody() -> None:
    assert Keyring().find(TOKEN.encode(), now=NOW) is None
    assert Keyring().find(b"", now=NOW) is None


def test_a_key_is_unknown_from_the_moment_it_expires() -> None:
    ring = keyring(expires="2026-12-31T00:00:00Z")
    end = 1_798_675_200.0

    assert ring.find(TOKEN.encode(), now=end - 0.001) is not None
    assert ring.find(TOKEN.encode(), now=end) is None


def test_a_key_may_use_what_it_lists_and_without_a_list_everything() -> None:
    some = parse_key("a", {"sha256": DIGEST, "models": ["qwen", "qwen-sql"]})
    every = parse_key("b", {"sha256": DIGEST})

    assert [some.allows(name) for name in ("qwen", "qwen-sql", "llama")] == [True, True, False]
    assert every.allows("llama")
    assert some.filter(["llama", "qwen"]) == ["qwen"]


def test_reads_every_field() -> None:
    key = parse_key(
        "team-a",
        {
            "sha256": DIGEST,
            "models": ["qwen"],
            "requestsPerMinute": 60,
            "tokensPerMinute": 10_000,
            "tokensPerDay": 1_000_000,
            "priority": 10,
            "expires": "2026-12-31T00:00:00+01:00",
            "created": "2026-11-21T15:00:00Z",
            "note": "ask Ada",
        },
    )

    assert (key.requests_per_minute, key.tokens_per_minute, key.tokens_per_day) == (60, 10_000, 1_000_000)
    assert (key.priority, key.expires_at, key.note) == (10, 1_798_671_600.0, "ask Ada")
    assert key.is_limited
    assert not parse_key("b", {"sha256": DIGEST}).is_limited


def test_an_entry_may_be_yaml() -> None:
    text = f"sha256: {DIGEST}\nmodels: [qwen]\ntokensPerDay: 5\nexpires: 2026-12-31T00:00:00Z\n"

    assert parse_key("a", text.encode()) == parse_key(
        "a", {"sha256": DIGEST, "models": ["qwen"], "tokensPerDay": 5, "expires": "2026-12-31T00:00:00Z"}
    )


@pytest.mark.parametrize(
    ("id_", "entry", "complaint"),
    [
        ("Team", {"sha256": DIGEST}, "is no id"),
        ("team_a", {"sha256": DIGEST}, "is no id"),
        ("a" * 64, {"sha256": DIGEST}, "is no id"),
        ("a", {}, "a.sha256: Field required"),
        ("a", {"sha256": DIGEST[:-1]}, "a.sha256"),
        ("a", {"sha256": DIGEST.upper()}, "a.sha256"),
        ("a", {"sha256": DIGEST, "tokensPerMinut": 5}, "a.tokensPerMinut"),
        ("a", {"sha256": DIGEST, "tokensPerMinute": 0}, "a.tokensPerMinute"),
        ("a", {"sha256": DIGEST, "tokensPerMinute": "5"}, "a.tokensPerMinute"),
        ("a", {"sha256": DIGEST, "requestsPerMinute": True}, "a.requestsPerMinute"),
        ("a", {"sha256": DIGEST, "models": "qwen"}, "a.models"),
        ("a", {"sha256": DIGEST, "priority": 101}, "a.priority"),
        ("a", {"sha256": DIGEST, "expires": "2026-12-31T00:00:00"}, "a.expires"),
        ("a", {"sha256": DIGEST, "expires": "soon"}, "a.expires"),
        ("a", b"\xff\xfe\x00", "neither JSON nor YAML"),
        ("a", b"{", "neither JSON nor YAML"),
        ("a", b"{" + b'"a":{' * 5000, "neither JSON nor YAML"),
        ("a", b"- : : [", "neither JSON nor YAML"),
        ("a", b"", "a: "),
        ("a", None, "a: "),
        ("a", b"[1, 2]", "a: "),
    ],
)
def test_a_bad_entry_is_told_and_the_others_go_on(id_: str, entry: object, complaint: str) -> None:
    content = json.dumps(entry) if isinstance(entry, dict) else entry

    ring, wrong = build_keyring({id_: content, "team-a": {"sha256": DIGEST}})

    assert list(wrong) == [id_]
    assert complaint in wrong[id_]
    assert len(ring) == 1
    assert ring.find(TOKEN.encode(), now=NOW) is not None


def test_complaints_do_not_quote_what_is_in_the_secret() -> None:
    with pytest.raises(InvalidKey) as raised:
        parse_key("a", f'{{"sha256": "{TOKEN}", "token": "{TOKEN}"')
    with pytest.raises(InvalidKey) as also:
        parse_key("a", {"sha256": TOKEN})

    assert TOKEN not in str(raised.value)
    assert TOKEN not in str(also.value)


def test_what_is_written_is_read_again() -> None:
    entry = parse_entry("a", {"sha256": DIGEST, "models": ["qwen"], "tokensPerDay": 5, "note": "x", "priority": -1})

    text = render_entry(entry)

    assert json.loads(text) == {
        "sha256": DIGEST,
        "models": ["qwen"],
        "tokensPerDay": 5,
        "priority": -1,
        "note": "x",
    }
    assert parse_entry("a", text) == entry


def test_a_key_does_not_show_its_digest() -> None:
    key = parse_key("a", {"sha256": DIGEST})

    assert "digest" not in repr(key)
    assert DIGEST not in repr(key)
