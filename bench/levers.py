"""What the two levers on a cold start are worth: nodes that have the engine's image, and nodes that have the weights.

One deployment of engine-sim is woken from zero in four states, one after another in each round: with its image on the
node or not, and with its weights in a folder of the node or not. The image has a layer of random bytes that no node has
seen, from a registry on this machine; the weights come from a hub in the cluster that sends as fast as a link of one
gigabit a second. Needs the local cluster, whose nodes reach this machine's loopback.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from bench.claims import Claim, percentile
from e2e.cluster.local import LocalCluster
from e2e.cluster.model import ClusterError
from e2e.demo import story
from e2e.images import build
from e2e.lab import BIG_NODE, SYSTEM, helm_install, install, open_lab, sim_deployment
from e2e.progress import say
from tests.fakes.stores import find_digest, push_blob, push_manifest, run_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab import Installation, Lab

ROUNDS: Final = 3
IMAGE_BYTES: Final = 256 * 2**20
WEIGHT_BYTES: Final = 512 * 2**20
LINK: Final = 125_000_000
"""Bytes a second of the hub: one gigabit."""
NAMESPACE: Final = "bench-levers"
_REPOSITORY: Final = "engine-sim"
_ON_ONE_NODE: Final = {"kubernetes.io/hostname": BIG_NODE}
_HUB: Final = """
import os, struct, sys
sys.path.insert(0, "/opt/lull")
import hub
size, pace = int(sys.argv[1]), int(sys.argv[2])
made = hub.make_repositories("lull/large")
header = b'{"ballast":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
blob = hub.Blob(struct.pack("<Q", len(header)) + header + os.urandom(size), is_large=True)
digest = blob.sha256
files = {**made["lull/large"].files, "ballast.safetensors": blob}
hub.Blob.sha256 = property(lambda one, real=hub.Blob.sha256.fget: digest if one is blob else real(one))
hub.Blob.git_id = property(lambda one, real=hub.Blob.git_id.fget: digest[:40] if one is blob else real(one))
settings = hub.Settings({"lull/large": hub.Repository(files)}, "none", pace)
hub.make_server(settings, 8080).serve_forever()
"""
"""The hub of the image with a large file more, whose digests are computed once."""


@dataclass(frozen=True, slots=True)
class State:
    """What a node has of a model before it is woken."""

    name: str
    has_image: bool
    has_weights: bool


STATES: Final = (
    State("neither image nor weights", has_image=False, has_weights=False),
    State("weights", has_image=False, has_weights=True),
    State("image", has_image=True, has_weights=False),
    State("image and weights", has_image=True, has_weights=True),
)
LEAST_SAVED: Final = (30.0, 10.0, 50.0)
"""Per cent of the bare node's time, for each of the other states."""


def measure() -> list[Claim]:
    """Wake the model in each state, a few times, and read the clock at the client."""
    with tempfile.TemporaryDirectory() as folder, run_registry(Path(folder)) as registry:
        archive = build(["engine-sim"])["engine-sim"].archive
        hub = f"hub.endpoint=http://hub.{NAMESPACE}.svc.cluster.local:8080"
        with install(["lull", "engine-sim"], values=[hub]) as installation:
            if not isinstance(installation.cluster, LocalCluster):
                raise ClusterError("bench levers needs the local cluster: unset LULL_CLUSTER.")
            try:
                took = asyncio.run(_measure(installation, Registry(registry, archive), hub))
            finally:
                # The registry goes, and what asks for its image with it.
                helm_install(installation.cluster, installation.images["lull"])
    medians = {state: percentile(seconds, 50) for state, seconds in took.items()}
    bare = medians[STATES[0]]
    return [
        *(Claim(f"wake → first byte, node has {one.name}, p50", medians[one], None, "s", ROUNDS) for one in STATES),
        *(
            Claim(
                f"  saved where it has {one.name}", 100 * (1 - medians[one] / bare), least, "%", ROUNDS, at_least=True
            )
            for one, least in zip(STATES[1:], LEAST_SAVED, strict=True)
        ),
    ]


async def _measure(installation: Installation, registry: Registry, hub: str) -> dict[State, list[float]]:
    took: dict[State, list[float]] = {state: [] for state in STATES}
    async with open_lab(installation, NAMESPACE) as lab:
        command = ["python3", "-c", _HUB, str(WEIGHT_BYTES), str(LINK)]
        await lab.apply(*story.hub(installation.images["engine-sim"], command))
        await lab.kubectl("wait", "--for=condition=Ready", "pod/hub", "--timeout=180s")
        with _node_folder() as folder:
            known = await asyncio.to_thread(registry.push, "known")
            await asyncio.to_thread(_pull_ahead, installation, hub, known)
            # Fills the folder.
            await _wake(lab, "filler", known, folder)
            for number in range(ROUNDS):
                for state in STATES:
                    image = (
                        known if state.has_image else await asyncio.to_thread(registry.push, f"unseen-{time.time_ns()}")
                    )
                    seconds = await _wake(
                        lab, f"lever-{number}-{STATES.index(state)}", image, folder if state.has_weights else None
                    )
                    took[state].append(seconds)
                    say(f"  round {number + 1}, node has {state.name}: {seconds:.2f} s")
    return took


async def _wake(lab: Lab, name: str, image: str, folder: Path | None) -> float:
    """Seconds from a request for a model that sleeps to the first byte of its answer."""
    cache = {"type": "Ephemeral"} if folder is None else {"type": "HostPath", "path": str(folder)}
    await lab.apply(
        sim_deployment(
            lab.installation,
            name,
            sim={"startup": 0.5},
            engine={"image": image},
            model={"source": "hf://slow/large", "cache": cache},
            placement={"pools": [{"name": "one", "nodeSelector": _ON_ONE_NODE}]},
            scaling={"idleAfter": "30m"},
        )
    )
    await lab.until_condition(name, "Ready", "True", "ScaledToZero")
    asked = time.monotonic()
    async with lab.session.post(
        lab.gateway + "/v1/completions", json={"model": name, "prompt": "hello", "max_tokens": 4, "stream": True}
    ) as response:
        assert response.status == 200, await response.text()
        await response.content.readany()
        seconds = time.monotonic() - asked
        await response.read()
    await lab.kubectl("delete", "llm", name, "--wait")
    return seconds


def _pull_ahead(installation: Installation, hub: str, image: str) -> None:
    """Let the chart's DaemonSet pull the image, as a user would."""
    host = f"prePull.nodeSelector.kubernetes\\.io/hostname={BIG_NODE}"
    helm_install(installation.cluster, installation.images["lull"], [hub, f"prePull.images={{{image}}}", host])
    installation.kubectl("--namespace", SYSTEM, "rollout", "status", "daemonset/lull-pre-pull", "--timeout=180s")


@contextmanager
def _node_folder() -> Iterator[Path]:
    """A folder of the node, which is this machine, that engine pods may write to."""
    folder = Path(tempfile.mkdtemp(prefix="lull-levers-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry, and the archive of the image that is pushed to it with a layer more."""

    url: str
    archive: Path

    def push(self, tag: str) -> str:
        """Push the image with a layer that nobody has; its reference."""
        with tarfile.open(self.archive) as opened, httpx.Client(base_url=self.url, timeout=60) as client:
            (entry,) = json.loads(_read(opened, "index.json"))["manifests"]
            manifest = json.loads(_read(opened, _blob(entry)))
            config = json.loads(_read(opened, _blob(manifest["config"])))
            layer = _make_layer()
            config["rootfs"]["diff_ids"].append(find_digest(layer))
            for known in manifest["layers"]:
                push_blob(client, _REPOSITORY, _read(opened, _blob(known)))
            described = json.dumps(config).encode()
            manifest["config"] |= push_blob(client, _REPOSITORY, described)
            kind = "application/vnd.oci.image.layer.v1.tar"
            manifest["layers"].append({"mediaType": kind, **push_blob(client, _REPOSITORY, layer)})
            push_manifest(client, _REPOSITORY, tag, manifest, entry["mediaType"])
        return f"{httpx.URL(self.url).netloc.decode()}/{_REPOSITORY}:{tag}"


def _make_layer() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        member = tarfile.TarInfo("opt/ballast")
        member.size = IMAGE_BYTES
        tar.addfile(member, io.BytesIO(os.urandom(IMAGE_BYTES)))
    return content.getvalue()


def _blob(described: dict[str, Any]) -> str:
    return "blobs/" + str(described["digest"]).replace(":", "/")


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise ClusterError(f"the image's archive holds no {name}")
    return member.read()
