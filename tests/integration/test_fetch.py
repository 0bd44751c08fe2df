"""The fetcher against a real hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from lull.fetcher.download import partial_name
from lull.fetcher.failures import DiskFull, Failed, Forbidden, NotFound, NotWritable
from lull.fetcher.fetch import fetch
from lull.fetcher.options import Endpoints, Options
from lull.fetcher.snapshot import Checksum, RemoteFile
from lull.fetcher.sources import HubSource
from tests.fakes.fetching import FILES, WANTED, WEIGHTS, Command, Journal, contents, partials
from tests.fakes.hub import COMMIT, Hub, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SOURCE = HubSource("acme/tiny", "main")


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with serve(Hub(files=dict(FILES), large=frozenset({"model.safetensors"}))) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models"


def options(hub: Hub, *, token: str | None = None, patience: float = 2.0, report_every: float = 2.0) -> Options:
    credentials = {"token": token} if token is not None else {}
    endpoints = Endpoints(hub=hub.endpoint)
    return Options(endpoints, credentials, patience=patience, silence=2.0, report_every=report_every)


async def bring(hub: Hub, target: Path, *, source: HubSource = SOURCE, token: str | None = None) -> Journal:
    journal = Journal()
    await fetch(source, target, options(hub, token=token), journal)
    return journal


async def test_brings_what_an_engine_needs(hub: Hub, target: Path) -> None:
    journal = await bring(hub, target)

    assert contents(target) == {name: FILES[name] for name in WANTED}
    assert journal.events == ["fetching", "complete"]
    assert journal.lines[-1][1]["received"] == sum(len(FILES[name]) for name in WANTED)
    assert not partials(target)


async def test_a_second_run_asks_nobody(hub: Hub, target: Path) -> None:
    await bring(hub, target)
    hub.requests.clear()

    await bring(hub, target)

    assert hub.requests == []


async def test_a_file_that_was_damaged_is_fetched_again(hub: Hub, target: Path) -> None:
    await bring(hub, target)
    (target / "model.safetensors").write_bytes(b"short")
    hub.requests.clear()

    await bring(hub, target)

    assert contents(target)["model.safetensors"] == WEIGHTS
    assert hub.downloads() == ["/acme/tiny/resolve/" + COMMIT + "/model.safetensors", "/stored/model.safetensors"]


async def test_files_without_a_marker_are_checked_rather_than_fetched(hub: Hub, target: Path) -> None:
    await bring(hub, target)
    (target / ".lull" / "complete.json").unlink()
    (target / ".lull" / "files.jsonl").unlink()
    hub.requests.clear()

    await bring(hub, target)

    assert hub.downloads() == []


async def test_files_of_the_right_size_and_the_wrong_content_are_fetched(hub: Hub, target: Path) -> None:
    target.mkdir()
    (target / "model.safetensors").write_bytes(b"x" * len(WEIGHTS))

    await bring(hub, target)

    assert contents(target)["model.safetensors"] == WEIGHTS


async def test_another_revision_replaces_and_removes_files(hub: Hub, target: Path) -> None:
    await bring(hub, target)
    hub.commit = "b" * 40
    hub.files = {"model-00001-of-00001.safetensors": b"other", "config.json": FILES["config.json"]}
    hub.requests.clear()

    await bring(hub, target, source=HubSource("acme/tiny", hub.commit))

    assert contents(target) == hub.files
    assert hub.downloads() == [f"/acme/tiny/resolve/{hub.commit}/model-00001-of-00001.safetensors"]


async def test_a_cut_connection_is_continued_where_it_broke(hub: Hub, target: Path) -> None:
    hub.cut_after["model.safetensors"] = [2_000_000, 1_500_000]

    journal = await bring(hub, target)

    assert contents(target)["model.safetensors"] == WEIGHTS
    ranges = [headers.get("Range") for _, path, headers in hub.requests if path == "/stored/model.safetensors"]
    offsets = [int((asked or "bytes=0-")[6:-1]) for asked in ranges]
    assert offsets[0] == 0
    assert 0 < offsets[1] < offsets[2]
    assert journal.events.count("trying again") == 2


async def test_a_run_that_was_cut_short_is_continued_by_the_next(hub: Hub, target: Path) -> None:
    hub.cut_after["model.safetensors"] = [3_000_000] + [0] * 100
    with pytest.raises(Failed, match="cannot be fetched"):
        await fetch(SOURCE, target, options(hub, patience=0.3), Journal())
    (partial,) = partials(target)
    kept = partial.stat().st_size
    assert kept > 0
    hub.cut_after.clear()

    journal = await bring(hub, target)

    assert contents(target)["model.safetensors"] == WEIGHTS
    assert journal.lines[-1][1]["received"] == len(WEIGHTS) - kept


async def test_a_hub_without_ranges_is_read_from_the_start(hub: Hub, target: Path) -> None:
    hub.ranges = False
    hub.cut_after["model.safetensors"] = [2_000_000]

    await bring(hub, target)

    assert contents(target)["model.safetensors"] == WEIGHTS


async def test_a_mirror_that_lists_names_only_is_asked_for_the_rest(hub: Hub, target: Path) -> None:
    hub.terse = True

    await bring(hub, target)

    assert contents(target) == {name: FILES[name] for name in WANTED}
    marker = json.loads((target / ".lull" / "complete.json").read_text())
    assert all(file["checksum"] for file in marker["files"])


@pytest.mark.parametrize("content", [b"x" * len(WEIGHTS), WEIGHTS + b"more", b""])
async def test_wrong_content_never_gets_the_files_name(hub: Hub, target: Path, content: bytes) -> None:
    hub.lies["model.safetensors"] = content

    with pytest.raises(Failed, match=r"model\.safetensors of hf://acme/tiny"):
        await fetch(SOURCE, target, options(hub, patience=0.3), Journal())

    assert not (target / "model.safetensors").exists()
    assert not (target / ".lull" / "complete.json").exists()


async def test_errors_that_pass_are_waited_out(hub: Hub, target: Path) -> None:
    hub.statuses = [503, 429, 500]

    await bring(hub, target)

    assert set(contents(target)) == WANTED


async def test_a_hub_that_stays_down_is_given_up(hub: Hub, target: Path) -> None:
    hub.statuses = [503] * 1000

    with pytest.raises(Failed, match="cannot be reached: status 503"):
        await fetch(SOURCE, target, options(hub, patience=0.3), Journal())


async def test_an_unknown_repository_is_said_to_be_unknown(hub: Hub, target: Path) -> None:
    with pytest.raises(NotFound, match=r"hf://acme/other was not found"):
        await bring(hub, target, source=HubSource("acme/other", "main"))


async def test_a_gated_model_asks_for_a_token(hub: Hub, target: Path) -> None:
    hub.token = "right"

    with pytest.raises(Forbidden, match="asks for a token"):
        await bring(hub, target)
    with pytest.raises(Forbidden, match="has no access"):
        await bring(hub, target, token="wrong")
    await bring(hub, target, token="right")

    assert set(contents(target)) == WANTED


async def test_the_token_stays_with_the_hub(hub: Hub, target: Path) -> None:
    hub.token = "right"

    await bring(hub, target, token="right")

    at_the_storage = [headers for _, path, headers in hub.requests if path.startswith("/stored/")]
    assert at_the_storage
    assert all("Authorization" not in headers for headers in at_the_storage)


async def test_a_listing_that_leaves_the_target_writes_nothing(hub: Hub, target: Path) -> None:
    hub.extra_siblings = [{"rfilename": "../escaped.safetensors", "size": 1}]

    with pytest.raises(Failed, match="names a file outside of it"):
        await bring(hub, target)

    assert contents(target.parent) == {}


async def test_says_at_once_that_the_disk_is_too_small(hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))

    with pytest.raises(DiskFull, match=r"needs 4\.9 MiB more and 0\.0 MiB are free"):
        await bring(hub, target)

    assert hub.downloads() == []


async def test_says_that_the_disk_has_become_full(hub: Hub, target: Path) -> None:
    file = RemoteFile("model.safetensors", len(WEIGHTS), Checksum("sha256", hashlib.sha256(WEIGHTS).hexdigest()))
    partial = target / ".lull" / partial_name(file)
    partial.parent.mkdir(parents=True)
    partial.symlink_to("/dev/full")

    with pytest.raises(DiskFull, match="No room is left"):
        await bring(hub, target)


async def test_says_that_the_target_cannot_be_written(hub: Hub, target: Path) -> None:
    target.write_text("a file where a folder should be")

    with pytest.raises(NotWritable, match="Cannot write to"):
        await bring(hub, target)

    assert hub.requests == []


async def test_progress_is_told_while_it_goes_on(hub: Hub, target: Path) -> None:
    hub.cut_after["model.safetensors"] = [1_500_000, 0]
    journal = Journal()

    await fetch(SOURCE, target, options(hub, report_every=0.05), journal)

    progress = [fields for event, fields in journal.lines if event == "progress"]
    assert progress
    assert {fields["bytes"] for fields in progress} == {sum(len(FILES[name]) for name in WANTED)}


def command(hub: Hub, *arguments: str) -> Command:
    return Command(*arguments, HF_ENDPOINT=hub.endpoint + "/", HF_TOKEN=" right\n")


async def test_the_command_brings_files_that_every_user_may_read(hub: Hub, target: Path) -> None:
    hub.token = "right"
    umask = os.umask(0o077)

    code, lines = await command(hub, "hf://acme/tiny", "--to", str(target)).run()

    os.umask(umask)
    assert code == 0
    assert json.loads(lines[-1])["event"] == "complete"
    assert contents(target) == {name: FILES[name] for name in WANTED}
    assert {path.stat().st_mode & 0o777 for path in target.rglob("*") if path.is_file()} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in [target, *target.rglob("*")] if path.is_dir()} == {0o755}


@pytest.mark.parametrize(
    ("source", "token", "code", "sentence"),
    [
        ("hf://acme/other", None, 10, "was not found"),
        ("hf://acme/tiny", "another", 11, "refuses"),
        ("pvc://claim/path", None, 10, "is no folder in the pod"),
        ("ftp://acme/tiny", None, 1, "is not a source"),
    ],
)
async def test_the_commands_last_line_is_a_sentence(
    hub: Hub, target: Path, source: str, token: str | None, code: int, sentence: str
) -> None:
    hub.token = token

    exit_code, lines = await command(hub, source, "--to", str(target)).run()

    assert exit_code == code
    assert sentence in lines[-1]
    assert "Traceback" not in "".join(lines)


async def test_the_command_stops_when_told_and_goes_on_later(hub: Hub, target: Path) -> None:
    hub.token = "right"
    hub.cut_after["model.safetensors"] = [2_000_000] + [0] * 1000
    process = await command(hub, "hf://acme/tiny", "--to", str(target)).start()
    assert process.stderr is not None
    while b"trying again" not in await process.stderr.readline():
        pass

    process.send_signal(signal.SIGTERM)
    rest = await process.stderr.read()

    assert await process.wait() == 143
    assert rest.decode().splitlines()[-1] == "Fetching was stopped before it was complete."
    (partial,) = partials(target)
    assert partial.stat().st_size > 0
