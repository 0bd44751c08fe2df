"""The fetcher against a real OCI registry, behind a way that breaks."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from lull.core.sizing import Wishes
from lull.fetcher.failures import Contradiction, DiskFull, Failed, Forbidden, NotFound
from lull.fetcher.fetch import fetch
from lull.fetcher.options import DOCKER_CONFIG, Endpoints, Options
from lull.fetcher.sources import RegistrySource
from tests.fakes import gate as gates
from tests.fakes import stores
from tests.fakes.fetching import CHOSEN, FILES, WEIGHTS, Command, Journal, contents, partials
from tests.fakes.gate import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"
# What `htpasswd -nbB reader right` prints.
HTPASSWD = "reader:$2b$05$6zDB.Rii.aZHW8UWmpeG..KDxE40iBvNl39Jtc9cecmx44ZOfBjI2"


@dataclass(frozen=True)
class Layer:
    content: bytes
    media_type: str = OCI_LAYER
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Registry:
    """A real registry, the gate in front of it, and how models get into it."""

    gate: Gate
    auth: tuple[str, str] | None = None

    def options(
        self,
        *,
        login: str | None = None,
        check: Wishes | None = None,
        patience: float = 3.0,
        plain: bool = True,
        identity_token: str = "",
    ) -> Options:
        auth = {"auth": base64.b64encode((login or "").encode()).decode(), "identitytoken": identity_token}
        config = json.dumps({"auths": {f"https://{self.gate.host}/v1/": auth}})
        credentials = {DOCKER_CONFIG: config} if login is not None else {}
        endpoints = Endpoints(plain_http=frozenset({self.gate.host} if plain else ()))
        return Options(endpoints, credentials, check, patience=patience, silence=2.0)

    def source(self, tag: str | None = "v1", digest: str | None = None, repository: str = "org/tiny") -> RegistrySource:
        return RegistrySource(self.gate.host, repository, tag, digest)

    def push(self, *layers: Layer, tag: str = "v1", repository: str = "org/tiny") -> str:
        """Push an artifact; its digest."""
        with self._client() as client:
            config = stores.push_blob(client, repository, b"{}")
            manifest = {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", **config},
                "layers": [
                    {
                        "mediaType": layer.media_type,
                        **stores.push_blob(client, repository, layer.content),
                        "annotations": dict(layer.annotations),
                    }
                    for layer in layers
                ],
            }
            return stores.push_manifest(client, repository, tag, manifest, OCI_MANIFEST)

    def push_index(self, *entries: dict[str, Any], tag: str = "v1", repository: str = "org/tiny") -> str:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
        with self._client() as client:
            return stores.push_manifest(client, repository, tag, index, OCI_INDEX)

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.gate.backend, auth=self.auth)


def archive(members: Mapping[str, bytes], *, links: Mapping[str, str] | None = None, mode: str = "w") -> bytes:
    """A tar archive; links are symbolic."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as tar:  # type: ignore[call-overload]
        for name, body in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
        for name, linked in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, linked
            tar.addfile(member)
    return content.getvalue()


def titled(files: Mapping[str, bytes] = FILES) -> list[Layer]:
    return [Layer(content, OCI_LAYER, {TITLE: name}) for name, content in files.items()]


@pytest.fixture(scope="session")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with stores.run_registry(tmp_path_factory.mktemp("registry")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def closed_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with stores.run_registry(tmp_path_factory.mktemp("registry"), htpasswd=HTPASSWD) as endpoint:
        yield endpoint


@pytest.fixture
async def registry(open_registry: str) -> AsyncIterator[Registry]:
    async with gates.serve(Gate(open_registry)) as gate:
        yield Registry(gate)


@pytest.fixture
async def closed(closed_registry: str) -> AsyncIterator[Registry]:
    async with gates.serve(Gate(closed_registry)) as gate:
        yield Registry(gate, auth=("reader", "right"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models"


async def bring(
    registry: Registry, target: Path, options: Options | None = None, source: RegistrySource | None = None
) -> Journal:
    journal = Journal()
    await fetch(source or registry.source(), target, options or registry.options(), journal)
    return journal


async def test_brings_files_that_are_layers(registry: Registry, target: Path) -> None:
    registry.push(*titled())

    journal = await bring(registry, target)

    assert contents(target) == CHOSEN
    assert journal.events == ["fetching", "complete"]
    assert len(registry.gate.asked("/blobs/")) == len(CHOSEN)


async def test_reads_model_packs(registry: Registry, target: Path) -> None:
    raw, packed = "application/vnd.cncf.model.weight.config.v1.raw", "application/vnd.cncf.model.weight.v1.tar"
    name = "org.cncf.model.filepath"
    registry.push(
        Layer(FILES["config.json"], raw, {name: "config.json"}),
        Layer(archive({"model.safetensors": WEIGHTS}), packed, {name: "model.safetensors"}),
        Layer(b"text", "application/vnd.cncf.model.dataset.v1.raw", {name: "train.bin"}),
    )

    await bring(registry, target)

    assert contents(target) == {name: FILES[name] for name in ("config.json", "model.safetensors")}


async def test_reads_kits(registry: Registry, target: Path) -> None:
    tiny = {f"./tiny/{name}": content for name, content in FILES.items()}
    registry.push(
        Layer(archive({"data/train.bin": b"text"}), "application/vnd.kitops.modelkit.dataset.v1.tar"),
        Layer(archive(tiny, mode="w:gz"), "application/vnd.kitops.modelkit.model.v1.tar+gzip"),
    )

    await bring(registry, target)

    assert contents(target) == CHOSEN


async def test_reads_what_oras_packs(registry: Registry, target: Path) -> None:
    folder = archive({f"tiny/{name}": content for name, content in FILES.items()}, mode="w:gz")
    registry.push(Layer(folder, f"{OCI_LAYER}+gzip", {TITLE: "tiny", "io.deis.oras.content.unpack": "true"}))

    await bring(registry, target)

    assert contents(target) == CHOSEN


async def test_reads_an_image_that_carries_a_model(registry: Registry, target: Path) -> None:
    base = {"bin/busybox": b"x" * 9000, "etc/config.json": b'{"not": "a model"}', "models/old.safetensors": b"old"}
    top = {"models/config.json": FILES["config.json"], "models/.wh.old.safetensors": b""}
    image = registry.push(
        Layer(
            archive(base, links={"bin/sh": "busybox", "etc/out": "/../../etc/passwd"}, mode="w:gz"), f"{OCI_LAYER}+gzip"
        ),
        Layer(archive(top, mode="w:gz"), "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        Layer(archive({"models/model.safetensors": WEIGHTS}), OCI_LAYER),
        tag="amd64",
    )
    other = registry.push(*titled({"config.json": b"{}", "model.safetensors": b"other"}), tag="other")
    platforms = ("linux", "amd64"), ("linux", "arm64"), ("linux", "riscv64")
    registry.push_index(
        *(
            {
                "mediaType": OCI_MANIFEST,
                "digest": other if architecture == "riscv64" else image,
                "size": 1,
                "platform": {"os": system, "architecture": architecture},
            }
            for system, architecture in reversed(platforms)
        ),
        tag="multi",
    )

    await bring(registry, target, source=registry.source("multi"))

    assert contents(target) == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    assert not list((target / ".lull").glob("*.layer"))
    assert not (target / ".lull" / "unpacked").exists()


async def test_follows_links_inside_an_image_without_making_any(registry: Registry, target: Path) -> None:
    cache = "models/models--org--tiny"
    members = {f"{cache}/blobs/1": FILES["config.json"], f"{cache}/blobs/2": WEIGHTS}
    links = {
        f"{cache}/snapshots/abc/config.json": "../../blobs/1",
        f"{cache}/snapshots/abc/model.safetensors": "../../blobs/2",
        f"{cache}/snapshots/abc/again.safetensors": f"/{cache}/snapshots/abc/model.safetensors",
    }
    registry.push(Layer(archive(members, links=links)))

    await bring(registry, target)

    wanted = {"config.json": FILES["config.json"], "model.safetensors": WEIGHTS, "again.safetensors": WEIGHTS}
    assert contents(target) == wanted
    assert not any(path.is_symlink() for path in target.rglob("*"))


@pytest.mark.parametrize(
    ("members", "links"),
    [
        ({"../escaped.safetensors": b"x"}, {}),
        ({"models/../../escaped.safetensors": b"x"}, {}),
        ({"models/model.safetensors": b"x"}, {"models/escaped.bin": "/etc/passwd"}),
        ({"models/model.safetensors": b"x"}, {"models/escaped.bin": "../../../etc/passwd"}),
        ({"models/model.safetensors": b"x"}, {"models/escaped.bin": "escaped.bin"}),
        ({"models/out/escaped.bin": b"x"}, {"models/out": "/tmp"}),
    ],
)
async def test_an_archive_cannot_reach_out_of_the_target(
    registry: Registry, target: Path, members: dict[str, bytes], links: dict[str, str]
) -> None:
    registry.push(Layer(archive({"models/config.json": b"{}", **members}, links=links)))

    with pytest.raises(Failed, match="leads out of it"):
        await bring(registry, target)

    assert [path for path in target.parent.rglob("*") if "escaped" in path.name or path.is_symlink()] == []


@pytest.mark.parametrize("path", ["../escaped.safetensors", "/etc/escaped", ".lull/complete.json", "a//b"])
async def test_a_layers_name_cannot_reach_out_of_the_target(registry: Registry, target: Path, path: str) -> None:
    registry.push(*titled({"config.json": b"{}", "model.safetensors": b"x", path: b"x"}))

    with pytest.raises(Failed, match="names a file outside of it"):
        await bring(registry, target)

    assert contents(target.parent) == {}


async def test_a_digest_pins_whatever_the_tag_says(registry: Registry, target: Path) -> None:
    first = registry.push(*titled())
    registry.push(*titled({"config.json": b"{}", "model.safetensors": b"newer"}))

    await bring(registry, target, source=registry.source("v1", first))

    assert contents(target) == CHOSEN


async def test_another_manifest_than_the_digest_names_is_refused(registry: Registry, target: Path) -> None:
    digest = registry.push(*titled(), Layer(b"x" * 10, "application/x", {"padding": "x" * 5000}))
    registry.gate.garble = 100

    with pytest.raises(Failed, match="gives another manifest than"):
        await bring(registry, target, source=registry.source(None, digest))


async def test_content_is_checked_by_its_digest(registry: Registry, target: Path) -> None:
    registry.push(*titled())
    registry.gate.garble = 100

    with pytest.raises(Failed, match=r"model\.safetensors of oci://.* came 3 times with a wrong size or checksum"):
        await bring(registry, target)

    assert "model.safetensors" not in contents(target)


@pytest.mark.parametrize("as_image", [False, True])
async def test_a_cut_connection_is_continued_where_it_broke(
    registry: Registry, target: Path, *, as_image: bool
) -> None:
    image = Layer(archive({f"models/{name}": content for name, content in FILES.items()}))
    registry.push(*([image] if as_image else titled()))
    registry.gate.cut_after = [2_500_000, 1_500_000]

    journal = await bring(registry, target)

    assert contents(target) == CHOSEN
    assert journal.events.count("trying again") == 2
    offsets = [int(headers["Range"][6:-1]) for headers in registry.gate.asked("/blobs/") if "Range" in headers]
    assert 0 < offsets[0] < offsets[1]


async def test_a_run_that_was_cut_short_is_continued_by_the_next(registry: Registry, target: Path) -> None:
    registry.push(Layer(archive({f"models/{name}": content for name, content in FILES.items()})))
    registry.gate.cut_after = [3_000_000] + [100] * 100
    with pytest.raises(Failed, match="cannot be fetched"):
        await bring(registry, target, registry.options(patience=0.3))
    (partial,) = partials(target)
    kept = partial.stat().st_size
    registry.gate.cut_after = []

    journal = await bring(registry, target)

    assert kept > 1_000_000
    assert contents(target) == CHOSEN
    assert int(str(journal.last("complete")["received"])) <= len(WEIGHTS) + 100_000 - kept


async def test_layers_that_were_unpacked_are_not_fetched_again(
    registry: Registry, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = archive({"models/model.safetensors": WEIGHTS})
    monkeypatch.setattr("lull.fetcher.fetch.SMALL", len(weights))
    registry.push(Layer(weights), Layer(b"no archive" + weights))
    with pytest.raises(Failed, match="cannot be unpacked"):
        await bring(registry, target)
    registry.push(Layer(weights), Layer(archive({"models/config.json": FILES["config.json"]})))
    registry.gate.requests.clear()

    await bring(registry, target)

    assert contents(target) == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    assert len(registry.gate.asked("/blobs/")) == 1


@pytest.mark.parametrize("as_image", [False, True])
async def test_a_model_that_rules_out_the_spec_is_not_fetched(
    registry: Registry, target: Path, monkeypatch: pytest.MonkeyPatch, *, as_image: bool
) -> None:
    monkeypatch.setattr("lull.fetcher.fetch.SMALL", 1 << 20)
    image = [
        Layer(archive({"models/config.json": FILES["config.json"]})),
        Layer(archive({"models/model.safetensors": WEIGHTS})),
    ]
    registry.push(*(image if as_image else titled()))

    with pytest.raises(Contradiction, match=r"spec\.parallelism\.tensor is 3"):
        await bring(registry, target, registry.options(check=Wishes(tensor=3)))

    assert len(registry.gate.asked("/blobs/")) == 1


async def test_says_at_once_that_the_disk_is_too_small(
    registry: Registry, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.push(Layer(archive({f"models/{name}": content for name, content in FILES.items()})))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": len(WEIGHTS) + 1_000_000}))

    with pytest.raises(DiskFull, match=r"needs 9\.8 MiB more"):
        await bring(registry, target)

    assert registry.gate.asked("/blobs/") == []


async def test_what_is_not_there_is_said_not_to_be(registry: Registry, target: Path) -> None:
    with pytest.raises(NotFound, match=r"org/none:v1 was not found on .*: look at the repository and the tag"):
        await bring(registry, target, source=registry.source(repository="org/none"))


async def test_a_password_is_given_where_it_is_asked_for(closed: Registry, target: Path) -> None:
    closed.push(*titled())

    with pytest.raises(Forbidden, match=r"asks for a login .*put a \.dockerconfigjson"):
        await bring(closed, target)
    with pytest.raises(Forbidden, match=r"refuses .* to reader \(401\)"):
        await bring(closed, target, closed.options(login="reader:wrong"))
    await bring(closed, target, closed.options(login="reader:right"))

    assert contents(target) == CHOSEN


async def test_a_token_is_fetched_where_one_is_asked_for(registry: Registry, target: Path) -> None:
    registry.push(*titled())
    registry.gate.login = "reader:right"

    with pytest.raises(Forbidden, match="asks for a login"):
        await bring(registry, target)
    with pytest.raises(Forbidden, match="refuses"):
        await bring(registry, target, registry.options(login="reader:wrong"))
    await bring(registry, target, registry.options(login="reader:right"))

    assert contents(target) == CHOSEN
    asked = [path for _, path, _ in registry.gate.requests if path.startswith("/token")]
    assert asked[-1] == "/token?service=registry&scope=repository%3Aorg%2Ftiny%3Apull"


async def test_an_identity_token_is_exchanged(registry: Registry, target: Path) -> None:
    registry.push(*titled())
    registry.gate.login = "reader:right"

    await bring(registry, target, registry.options(login="0000:", identity_token="long-lived"))

    assert contents(target) == CHOSEN


async def test_a_registry_without_tls_must_be_listed(registry: Registry, target: Path) -> None:
    registry.push(*titled())

    with pytest.raises(Failed, match=r"does not speak TLS; .* setting oci_plain_http"):
        await bring(registry, target, registry.options(plain=False))


async def test_the_command_reads_a_mounted_secret(closed: Registry, target: Path, tmp_path: Path) -> None:
    digest = closed.push(*titled())
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / DOCKER_CONFIG).write_text(
        json.dumps({"auths": {closed.gate.host: {"username": "reader", "password": "right"}}})
    )
    source = f"oci://{closed.gate.host}/org/tiny:v1@{digest}"

    code, lines = await Command(
        *(source, "--to", str(target), "--credentials", str(secret)),
        LULL_OCI_PLAIN_HTTP=f"other.example, {closed.gate.host}",
    ).run()

    assert (code, json.loads(lines[-1])["event"]) == (0, "complete")
    assert contents(target) == CHOSEN
