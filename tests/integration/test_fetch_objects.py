"""The fetcher against a real S3 server, and one like Google Cloud Storage, behind a way that breaks."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import obstore
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from obstore.store import S3Store

from lull.core.sizing import Wishes
from lull.fetcher.failures import Contradiction, DiskFull, Failed, Forbidden, NotFound, Unreachable
from lull.fetcher.fetch import fetch
from lull.fetcher.options import Endpoints, Options
from lull.fetcher.sources import ObjectSource
from tests.fakes import gate as gates
from tests.fakes import stores
from tests.fakes.fetching import CHOSEN, FILES, NO_MACHINE, WEIGHTS, Command, Journal, contents, partials
from tests.fakes.gate import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "rightright", "AWS_REGION": "us-east-1"}
PART = 5 << 20
LARGE = WEIGHTS * 3


@dataclass
class Store:
    """A bucket `models` that holds one model twice: in single pieces, and with its weights in parts."""

    scheme: str
    gate: Gate

    def source(self, folder: str = "org/tiny") -> ObjectSource:
        return ObjectSource("s3" if self.scheme == "s3" else "gs", "models", folder)

    def options(
        self, *, credentials: dict[str, str] | None = None, check: Wishes | None = None, patience: float = 5.0
    ) -> Options:
        endpoints = Endpoints(s3=self.gate.endpoint, gs=self.gate.endpoint)
        keys = (KEYS if self.scheme == "s3" else {}) if credentials is None else credentials
        return Options(endpoints, keys, check, patience=patience, silence=3.0)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    with stores.run_s3(folder) as endpoint:
        (folder / "buckets" / "models").mkdir()
        store = S3Store(
            "models",
            config={
                "endpoint": endpoint,
                "region": "us-east-1",
                "access_key_id": KEYS["AWS_ACCESS_KEY_ID"],
                "secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"],
            },
            client_options={"allow_http": True},
        )
        for name, content in FILES.items():
            obstore.put(store, f"org/tiny/{name}", content)
            obstore.put(store, f"org/tiny-2/{name}", b"another model")
        obstore.put(store, "org/large/config.json", FILES["config.json"])
        obstore.put(store, "org/large/model.safetensors", LARGE, use_multipart=True, chunk_size=PART)
        obstore.put(store, "org/odd/we ird é+%.txt", b"odd")
        obstore.put(store, "org/odd/empty.txt", b"")
        obstore.put(store, "org/odd/model.safetensors", WEIGHTS)
        yield endpoint


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NO_MACHINE.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def s3(s3_server: str) -> AsyncIterator[Store]:
    async with gates.serve(Gate(s3_server)) as gate:
        yield Store("s3", gate)


@pytest.fixture
async def gs(tmp_path: Path) -> AsyncIterator[Store]:
    async with gates.serve(Gate()) as gate:
        with stores.run_gcs(tmp_path, public_host=gate.host) as endpoint:
            gate.backend = endpoint
            await _fill_gcs(gate)
            yield Store("gs", gate)


async def _fill_gcs(gate: Gate) -> None:
    async with httpx.AsyncClient(base_url=gate.backend, headers={"Host": gate.host}) as client:
        (await client.post("/storage/v1/b?project=test", json={"name": "models"})).raise_for_status()
        for name, content in FILES.items():
            parameters = {"uploadType": "media", "name": f"org/tiny/{name}"}
            answer = await client.post("/upload/storage/v1/b/models/o", params=parameters, content=content)
            answer.raise_for_status()


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models"


async def bring(store: Store, target: Path, folder: str = "org/tiny", options: Options | None = None) -> Journal:
    journal = Journal()
    await fetch(store.source(folder), target, options or store.options(), journal)
    return journal


async def test_brings_what_an_engine_needs(store: Store, target: Path) -> None:
    journal = await bring(store, target)

    assert contents(target) == CHOSEN
    assert journal.events == ["fetching", "complete"]
    assert not partials(target)
    assert store.gate.asked("pytorch_model") == []


async def test_a_second_run_asks_nobody(store: Store, target: Path) -> None:
    await bring(store, target)
    store.gate.requests.clear()

    await bring(store, target)

    assert store.gate.requests == []


async def test_a_cut_connection_is_continued_where_it_broke(store: Store, target: Path) -> None:
    store.gate.cut_after = [2_500_000, 1_500_000]

    journal = await bring(store, target)

    assert contents(target) == CHOSEN
    assert journal.events.count("trying again") == 2
    offsets = [int(headers["Range"][6:-1]) for headers in store.gate.asked("safetensors") if "Range" in headers]
    assert 0 < offsets[0] < offsets[1]


async def test_a_run_that_was_cut_short_is_continued_by_the_next(store: Store, target: Path) -> None:
    store.gate.cut_after = [3_000_000] + [100] * 100
    with pytest.raises(Failed, match="cannot be fetched"):
        await bring(store, target, options=store.options(patience=0.3))
    (partial,) = partials(target)
    kept = partial.stat().st_size
    store.gate.cut_after = []

    journal = await bring(store, target)

    assert kept > 1_000_000
    assert contents(target) == CHOSEN
    assert int(str(journal.last("complete")["received"])) <= sum(map(len, CHOSEN.values())) - kept


async def test_errors_that_pass_are_waited_out(store: Store, target: Path) -> None:
    store.gate.statuses = [503, 500, 429]

    journal = await bring(store, target)

    assert contents(target) == CHOSEN
    assert journal.events.count("trying again") == 3


async def test_what_stays_down_is_given_up(store: Store, target: Path) -> None:
    store.gate.statuses = [503] * 1000

    with pytest.raises(Failed, match="cannot be reached: status 503"):
        await bring(store, target, options=store.options(patience=0.3))


async def test_a_server_that_is_not_there_is_said_not_to_answer(target: Path) -> None:
    options = Options(Endpoints(s3="http://127.0.0.1:9"), KEYS, patience=0.3, silence=1.0)

    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9 cannot be reached: Connection refused"):
        await fetch(ObjectSource("s3", "models", "org/tiny"), target, options, Journal())


async def test_an_unknown_folder_is_said_to_hold_nothing(store: Store, target: Path) -> None:
    with pytest.raises(NotFound, match=r"models/org/none holds nothing on http"):
        await bring(store, target, "org/none")


async def test_an_unknown_bucket_is_said_to_be_unknown(s3: Store, target: Path) -> None:
    with pytest.raises(NotFound, match=r"s3://other/x was not found .*: look at the bucket and the path"):
        await fetch(ObjectSource("s3", "other", "x"), target, s3.options(), Journal())


async def test_wrong_keys_are_refused_at_once(s3: Store, target: Path) -> None:
    with pytest.raises(Forbidden, match="to these credentials"):
        await bring(s3, target, options=s3.options(credentials=KEYS | {"AWS_SECRET_ACCESS_KEY": "wrongwrong"}))

    assert len(s3.gate.requests) == 1


async def test_a_private_bucket_asks_for_credentials(s3: Store, target: Path) -> None:
    with pytest.raises(Forbidden, match=r"put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the Secret"):
        await bring(s3, target, options=s3.options(credentials={"AWS_REGION": "us-east-1"}))


async def test_a_public_bucket_needs_no_credentials(gs: Store, target: Path) -> None:
    await bring(gs, target)

    assert all("Authorization" not in headers for _, _, headers in gs.gate.requests)


async def test_a_service_account_signs(gs: Store, target: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {
        "type": "service_account",
        "client_email": "reader@project.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": text,
    }

    await bring(gs, target, options=gs.options(credentials={"service-account.json": json.dumps(account)}))

    assert contents(target) == CHOSEN
    assert all(headers["Authorization"].startswith("Bearer ey") for _, _, headers in gs.gate.requests)


async def test_a_service_account_that_is_none_is_refused(gs: Store, target: Path) -> None:
    with pytest.raises(Forbidden, match="is not the key of a Google service account"):
        await bring(gs, target, options=gs.options(credentials={"service-account.json": "{}"}))


async def test_content_that_is_garbled_on_the_way_is_fetched_again(s3: Store, target: Path) -> None:
    s3.gate.garble = 1

    journal = await bring(s3, target)

    assert contents(target) == CHOSEN
    assert "wrong content" in journal.events


async def test_an_etag_that_is_no_md5_is_found_out(s3: Store, target: Path) -> None:
    # As with objects that S3 encrypts with a customer's key: the same content comes again, and never fits.
    s3.gate.garble = 100

    journal = await bring(s3, target)

    assert "ETags are no checksums here" in journal.events
    assert len(contents(target)["model.safetensors"]) == len(WEIGHTS)


async def test_an_object_in_parts_is_brought_and_remembered(s3: Store, target: Path) -> None:
    s3.gate.cut_after = [PART + 100]

    await bring(s3, target, "org/large")
    (target / ".lull" / "complete.json").unlink()
    s3.gate.requests.clear()
    await bring(s3, target, "org/large")

    assert contents(target)["model.safetensors"] == LARGE
    assert s3.gate.asked("safetensors") == []


async def test_odd_names_and_empty_objects_are_brought(s3: Store, target: Path) -> None:
    await bring(s3, target, "org/odd")

    assert contents(target) == {"we ird é+%.txt": b"odd", "empty.txt": b"", "model.safetensors": WEIGHTS}


async def test_a_model_that_rules_out_the_spec_is_not_fetched(store: Store, target: Path) -> None:
    with pytest.raises(Contradiction, match=r"spec\.parallelism\.tensor is 3.*allow 1, 2, 4, 8, 16, 32"):
        await bring(store, target, options=store.options(check=Wishes(tensor=3)))

    assert len(store.gate.asked("tiny%2Fconfig") + store.gate.asked("tiny/config")) == 1
    assert store.gate.asked("safetensors") == []


async def test_says_at_once_that_the_disk_is_too_small(
    store: Store, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))

    with pytest.raises(DiskFull, match=r"needs 4\.9 MiB more"):
        await bring(store, target)

    assert len(store.gate.requests) == 1


async def test_the_command_reads_a_mounted_secret(s3: Store, target: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    for name, content in KEYS.items():
        (secret / name).write_text(content + "\n")
    arguments = ("s3://models/org/tiny/", "--to", str(target), "--credentials", str(secret))

    code, lines = await Command(*arguments, AWS_ENDPOINT_URL=s3.gate.endpoint).run()

    assert (code, json.loads(lines[-1])["event"]) == (0, "complete")
    assert contents(target) == CHOSEN


async def test_empty_settings_are_as_good_as_absent(s3: Store, target: Path, tmp_path: Path) -> None:
    (tmp_path / "AWS_ENDPOINT_URL").write_text(s3.gate.endpoint + "/")
    (tmp_path / "token").write_text("")
    arguments = ("s3://models/org/tiny", "--to", str(target), "--credentials", str(tmp_path))
    keys = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "rightright"}

    code, lines = await Command(
        *arguments, AWS_ENDPOINT_URL="", AWS_REGION="", AWS_SESSION_TOKEN="", HF_TOKEN="", **keys
    ).run()

    assert (code, json.loads(lines[-1])["event"]) == (0, "complete")


async def test_an_endpoint_is_a_url(s3: Store, target: Path) -> None:
    with pytest.raises(Failed, match="The endpoint minio:9000 is no URL"):
        await bring(s3, target, options=s3.options(credentials=KEYS | {"AWS_ENDPOINT_URL": "minio:9000"}))


@pytest.mark.parametrize(
    ("source", "key", "code"),
    [
        ("s3://models/org/tiny", "wrongwrong", 11),
        ("s3://other/org/tiny", "rightright", 10),
        ("s3://models/org/none", "rightright", 10),
    ],
)
async def test_each_failure_of_the_command_has_its_code(
    s3: Store, target: Path, source: str, key: str, code: int
) -> None:
    environment = KEYS | {"AWS_SECRET_ACCESS_KEY": key, "AWS_ENDPOINT_URL": s3.gate.endpoint}

    exit_code, lines = await Command(source, "--to", str(target), **environment).run()

    assert exit_code == code
    assert lines[-1].endswith(".")


async def test_the_command_stops_when_told_in_the_middle(s3: Store, target: Path) -> None:
    s3.gate.pace = 0.02
    command = Command("s3://models/org/large", "--to", str(target), AWS_ENDPOINT_URL=s3.gate.endpoint, **KEYS)
    process = await command.start()
    assert process.stderr is not None
    while b'"progress"' not in await process.stderr.readline():
        pass

    process.send_signal(signal.SIGTERM)
    rest = await process.stderr.read()

    assert await process.wait() == 143
    assert rest.decode().splitlines()[-1] == "Fetching was stopped before it was complete."
    (partial,) = partials(target)
    assert partial.stat().st_size > 0


async def test_the_commands_check_ends_with_its_own_code(s3: Store, target: Path) -> None:
    check = json.dumps({"tensorParallel": 3, "maxModelLen": None, "quantization": None})

    code, lines = await Command(
        *("s3://models/org/tiny", "--to", str(target), "--check", check), AWS_ENDPOINT_URL=s3.gate.endpoint, **KEYS
    ).run()

    assert code == 13
    assert lines[-1].startswith("spec.parallelism.tensor is 3, which does not divide the model's 32 attention heads")
