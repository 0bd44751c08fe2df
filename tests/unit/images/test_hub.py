"""The little hub, asked as the fetcher asks."""

import hashlib
import threading
from collections.abc import Iterator

import httpx
import pytest

from images.hub import Blob, Repository, Settings, make_repositories, make_server

_WEIGHTS = bytes(range(256)) * 400
_REPOSITORY = Repository(
    {"config.json": Blob(b"{}", is_large=False), "model.safetensors": Blob(_WEIGHTS, is_large=True)}
)
_FILE = "/resolve/main/model.safetensors"


@pytest.fixture
def hub() -> Iterator[httpx.Client]:
    server = make_server(Settings({"lull/tiny": _REPOSITORY}, "token", slow_bytes_per_second=500_000), 0, "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
        yield client
    server.shutdown()
    thread.join()
    server.server_close()


def test_describes_a_repository_with_sizes_and_digests(hub: httpx.Client) -> None:
    described = hub.get("/api/models/lull/tiny/revision/main", params={"blobs": "true"}).json()

    weights = next(each for each in described["siblings"] if each["rfilename"] == "model.safetensors")
    assert described["sha"] == _REPOSITORY.commit
    assert weights["size"] == len(_WEIGHTS)
    assert weights["lfs"]["sha256"] == hashlib.sha256(_WEIGHTS).hexdigest()


def test_names_files_without_sizes_unless_asked(hub: httpx.Client) -> None:
    described = hub.get(f"/api/models/lull/tiny/revision/{_REPOSITORY.commit}").json()

    assert described["siblings"] == [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]


def test_serves_a_file_with_its_headers(hub: httpx.Client) -> None:
    head, whole = hub.head(f"/lull/tiny{_FILE}"), hub.get(f"/lull/tiny{_FILE}")

    assert whole.content == _WEIGHTS
    assert head.headers["content-length"] == str(len(_WEIGHTS))
    assert head.headers["etag"] == f'"{hashlib.sha256(_WEIGHTS).hexdigest()}"'
    assert head.headers["x-repo-commit"] == _REPOSITORY.commit


@pytest.mark.parametrize(("asked", "first", "last"), [("bytes=10-19", 10, 19), ("bytes=100000-", 100000, 102399)])
def test_serves_a_part(hub: httpx.Client, asked: str, first: int, last: int) -> None:
    part = hub.get(f"/lull/tiny{_FILE}", headers={"Range": asked})

    assert part.status_code == 206
    assert part.headers["content-range"] == f"bytes {first}-{last}/{len(_WEIGHTS)}"
    assert part.content == _WEIGHTS[first : last + 1]


def test_refuses_a_part_behind_the_end(hub: httpx.Client) -> None:
    assert hub.get(f"/lull/tiny{_FILE}", headers={"Range": "bytes=999999-"}).status_code == 416


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/gated/tiny{_FILE}", 401, "GatedRepo"),
        ("/api/models/gated/tiny", 401, "GatedRepo"),
        (f"/lull/nobody{_FILE}", 404, "RepoNotFound"),
        ("/lull/tiny/resolve/v9/config.json", 404, "RevisionNotFound"),
        ("/lull/tiny/resolve/main/nothing", 404, "EntryNotFound"),
        ("/somewhere", 404, "EntryNotFound"),
    ],
)
def test_says_why_not(hub: httpx.Client, path: str, status: int, code: str) -> None:
    refused = hub.get(path)

    assert (refused.status_code, refused.headers["x-error-code"]) == (status, code)


def test_a_token_opens_what_is_gated(hub: httpx.Client) -> None:
    assert hub.get(f"/gated/tiny{_FILE}", headers={"Authorization": "Bearer token"}).content == _WEIGHTS


def test_a_flaky_file_can_be_had_in_two_parts(hub: httpx.Client) -> None:
    with hub.stream("GET", f"/flaky/tiny{_FILE}") as response:
        received = _until_it_breaks(response)

    rest = hub.get(f"/flaky/tiny{_FILE}", headers={"Range": f"bytes={len(received)}-"})

    assert 0 < len(received) < len(_WEIGHTS)
    assert received + rest.content == _WEIGHTS


def test_a_slow_file_takes_its_time(hub: httpx.Client) -> None:
    slow = hub.get(f"/slow/tiny{_FILE}")

    assert slow.content == _WEIGHTS
    assert slow.elapsed.total_seconds() >= 0.1


def test_makes_the_same_model_and_adapters_each_time() -> None:
    once, again = make_repositories("lull/tiny"), make_repositories("lull/tiny")

    assert {"lull/tiny", "lull/tiny-lora-a", "lull/tiny-lora-b"} <= once.keys()
    assert {name: each.commit for name, each in once.items()} == {name: each.commit for name, each in again.items()}


def _until_it_breaks(response: httpx.Response) -> bytes:
    received = b""
    try:
        for chunk in response.iter_raw():
            received += chunk
    except httpx.RemoteProtocolError:
        return received
    pytest.fail("it did not break")
