"""Real stores on loopback, each a process of its own: an S3 server, one like Google Cloud Storage, OCI registries."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from e2e.cluster.tools import build_stores
from tests.fakes.ports import free_port

READY_SECONDS = 30.0


@cache
def find_stores() -> dict[str, Path]:
    if folder := os.environ.get("LULL_TEST_BINARIES"):
        return {name: Path(folder) / name for name in ("registry", "versitygw", "fake-gcs-server")}
    return dict(build_stores().paths)


@contextmanager
def run_s3(folder: Path) -> Iterator[str]:
    """An S3 server that checks signatures; its user is `reader` with the key `rightright`."""
    port = free_port()
    root, sidecar = folder / "buckets", folder / "sidecar"
    root.mkdir()
    sidecar.mkdir()
    environment = {"ROOT_ACCESS_KEY": "reader", "ROOT_SECRET_KEY": "rightright"}
    # Attributes beside the files: not every file system has room for them in an inode.
    command = ["--port", f"127.0.0.1:{port}", "--quiet", "posix", "--sidecar", str(sidecar), str(root)]
    with _run(folder, [str(find_stores()["versitygw"]), *command], port, environment=environment) as endpoint:
        yield endpoint


@contextmanager
def run_gcs(folder: Path, *, public_host: str) -> Iterator[str]:
    """A server like Google Cloud Storage that answers for a host, as clients call it."""
    port = free_port()
    command = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    with _run(folder, [str(find_stores()["fake-gcs-server"]), *command, "-public-host", public_host], port) as endpoint:
        yield endpoint


@contextmanager
def run_registry(folder: Path, *, htpasswd: str | None = None) -> Iterator[str]:
    """An OCI registry; with an htpasswd line it asks for that login."""
    port = free_port()
    auth = ""
    if htpasswd is not None:
        (folder / "htpasswd").write_text(htpasswd + "\n")
        auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {folder / 'htpasswd'}\n"
    config = folder / "registry.yaml"
    config.write_text(
        f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {folder / 'data'}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{auth}"
    )
    environment = {"OTEL_TRACES_EXPORTER": "none"}
    with _run(
        folder, [str(find_stores()["registry"]), "serve", str(config)], port, environment=environment
    ) as endpoint:
        yield endpoint


def push_blob(client: httpx.Client, repository: str, content: bytes) -> dict[str, Any]:
    """Push what a registry lacks; how a manifest refers to it."""
    digest = find_digest(content)
    if client.head(f"/v2/{repository}/blobs/{digest}").status_code != 200:
        upload = client.post(f"/v2/{repository}/blobs/uploads/").raise_for_status().headers["Location"]
        url = httpx.URL(upload).copy_merge_params({"digest": digest})
        client.put(url, content=content).raise_for_status()
    return {"digest": digest, "size": len(content)}


def push_manifest(client: httpx.Client, repository: str, tag: str, manifest: dict[str, Any], media_type: str) -> str:
    """Push a manifest, or an index of some; its digest."""
    content = json.dumps(manifest).encode()
    headers = {"Content-Type": media_type}
    client.put(f"/v2/{repository}/manifests/{tag}", content=content, headers=headers).raise_for_status()
    return find_digest(content)


def find_digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@contextmanager
def _run(
    folder: Path, command: Sequence[str], port: int, *, environment: dict[str, str] | None = None
) -> Iterator[str]:
    endpoint = f"http://127.0.0.1:{port}"
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"], **(environment or {})}
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(endpoint):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield endpoint
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(endpoint: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(endpoint, timeout=5):
            return True
    except urllib.error.HTTPError as answer:
        answer.close()
        return True
    except OSError:
        return False
