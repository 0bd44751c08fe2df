"""A tiny hub that speaks the part of Hugging Face's HTTP API by which files are fetched; read-only, standard library only.

`python hub.py --port 8080 --repo lull/tiny`. The repository is made at the start: where numpy, safetensors and
tokenizers are there it is the tiny model that vLLM serves (and its adapters, as lull/tiny-lora-a and so on), elsewhere
a stand-in with a config and a few bytes of weights, which is all that engine-sim looks at. The same repository is
served under other organisations that behave badly: `gated/tiny` wants a token, `slow/tiny` is slow, and `flaky/tiny`
breaks off in the middle of every file unless it is asked for the rest by Range.
"""

import argparse
import hashlib
import json
import re
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?$")
_RESOLVE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)$")
_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")
_CHUNK = 64 * 1024
_ANSWERS = 64
_LARGE = (".safetensors", ".bin")


@dataclass(frozen=True, slots=True)
class Blob:
    """One file of a repository."""

    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()  # Git's own

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.git_id


@dataclass(frozen=True, slots=True)
class Repository:
    """The files of one repository at its only revision."""

    files: Mapping[str, Blob]

    @property
    def commit(self) -> str:
        names = "".join(f"{name} {blob.sha256}\n" for name, blob in sorted(self.files.items()))
        return hashlib.sha1(names.encode()).hexdigest()  # as long as a commit's name


@dataclass(frozen=True, slots=True)
class Settings:
    """How the hub behaves."""

    repositories: Mapping[str, Repository]
    token: str
    slow_bytes_per_second: int


def read_repository(folder: Path) -> Repository:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return Repository({name: Blob(path.read_bytes(), path.suffix in _LARGE) for name, path in files.items()})


def make_repositories(name: str) -> dict[str, Repository]:
    """Make the model, and its adapters where it has any."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if not all(find_spec(module) for module in ("numpy", "safetensors", "tokenizers")):
            _make_stand_in(root / "model")
        else:
            try:
                from images import tiny  # noqa: PLC0415  # only where its requirements are met
            except ImportError:
                import tiny  # type: ignore[import-not-found,no-redef]  # noqa: PLC0415  # in the image it lies beside this file
            tiny.make_model(root / "model")
            tiny.make_adapters(root)
        made = {path.name: read_repository(path) for path in root.iterdir()}
    return {name if part == "model" else f"{name}-{part}": repository for part, repository in made.items()}


def make_server(settings: Settings, port: int, host: str = "0.0.0.0") -> ThreadingHTTPServer:
    """Bind the server; port 0 takes a free one."""

    class Handler(_Handler):
        hub = settings
        slots = threading.BoundedSemaphore(_ANSWERS)

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    hub: Settings
    slots: threading.BoundedSemaphore

    def do_HEAD(self) -> None:
        with self.slots:
            self._answer(with_body=False)

    def do_GET(self) -> None:
        with self.slots:
            self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path == "/health":
            self._send(200, b"", {})
        elif match := _API.match(path):
            self._describe(match["repo"], match["revision"] or "main", "true" in parse_qs(url.query).get("blobs", []))
        elif match := _RESOLVE.match(path):
            self._resolve(match["repo"], match["revision"], match["file"], with_body=with_body)
        else:
            self._refuse(404, "EntryNotFound", "Entry not found")

    def _find(self, name: str, revision: str) -> Repository | None:
        """Look the repository up; answer and return None where it cannot be had."""
        organisation, _, model = name.partition("/")
        repository = self.hub.repositories.get(name)
        if organisation in ("gated", "slow", "flaky"):
            repository = next(
                (found for key, found in self.hub.repositories.items() if key.endswith(f"/{model}")), None
            )
        if organisation == "gated" and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._refuse(401, "GatedRepo", f"Access to model {name} is restricted. You must be authenticated.")
            return None
        if repository is None:
            # The real hub says 401 here too, so as not to tell what is private; without accounts there is no such thing.
            self._refuse(404, "RepoNotFound", "Repository not found")
            return None
        if revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository

    def _describe(self, name: str, revision: str, with_blobs: bool) -> None:
        repository = self._find(name, revision)
        if repository is None:
            return
        body = {
            "_id": repository.commit[:24],
            "id": name,
            "modelId": name,
            "sha": repository.commit,
            "private": False,
            "gated": "auto" if name.startswith("gated/") else False,
            "siblings": [_sibling(file, blob, with_blobs) for file, blob in repository.files.items()],
        }
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str, *, with_body: bool) -> None:
        repository = self._find(name, revision)
        if repository is None:
            return
        blob = repository.files.get(file)
        if blob is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        size = len(blob.content)
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        headers |= {"Content-Type": "application/octet-stream"}
        if blob.is_large:
            headers |= {"X-Linked-Size": str(size), "X-Linked-ETag": f'"{blob.etag}"'}
        status, first, last = 200, 0, size - 1
        asked = _RANGE.match(self.headers.get("Range", ""))
        if asked:
            status, first, last = 206, int(asked[1]), min(int(asked[2] or last), last)
            if first >= size or last < first:
                self._send(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        organisation = name.partition("/")[0]
        self._send_head(status, last - first + 1, headers)
        if not with_body:
            return
        if organisation == "flaky" and not asked and size > 1:
            self.wfile.write(blob.content[: size // 2])
            self.close_connection = True
            return
        pace = self.hub.slow_bytes_per_second if organisation == "slow" else 0
        for chunk in _paced(blob.content[first : last + 1], pace):
            self.wfile.write(chunk)

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        headers = {"Content-Type": "application/json", "X-Error-Code": code, "X-Error-Message": message}
        self._send(status, body, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._send_head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _sibling(name: str, blob: Blob, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": name}
    size = len(blob.content)
    described: dict[str, Any] = {"rfilename": name, "blobId": blob.git_id, "size": size}
    return (
        {**described, "lfs": {"sha256": blob.sha256, "size": size, "pointerSize": 134}} if blob.is_large else described
    )


def _paced(content: bytes, bytes_per_second: int) -> Iterator[bytes]:
    """Cut into chunks; with a pace, one chunk each tenth of a second."""
    step = max(1, bytes_per_second // 10) if bytes_per_second else _CHUNK
    for at in range(0, len(content), step):
        if bytes_per_second and at:
            time.sleep(0.1)
        yield content[at : at + step]


def _make_stand_in(folder: Path) -> None:
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192, "vocab_size": 1024}))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}}}))
    header = json.dumps({"lm_head.weight": {"dtype": "F32", "shape": [1024, 64], "data_offsets": [0, 262144]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(262144))


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a tiny model as Hugging Face's hub would.")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--repo", action="append", help="ORGANISATION/NAME; lull/tiny by default; may be repeated")
    parser.add_argument("--token", default="tiny-token", help="what opens gated/…")
    parser.add_argument("--slow-bytes-per-second", type=int, default=200_000, help="the pace of slow/…")
    given = parser.parse_args()
    repositories: dict[str, Repository] = {}
    for name in given.repo or ["lull/tiny"]:
        repositories |= make_repositories(name)
    server = make_server(Settings(repositories, given.token, given.slow_bytes_per_second), given.port, given.host)
    print(f"serving {', '.join(sorted(repositories))} on port {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
