"""What a cluster can do, whoever provides it."""

import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from e2e.cluster import forward
from e2e.cluster.archives import Image, read_images
from e2e.cluster.model import ClusterError, Node, Provider
from e2e.cluster.nodes import Kubectl, has_profile, is_ready
from e2e.progress import step

# Unpacking is bound by disk and by one core each; more at once only makes all of them late.
_LOADS_AT_ONCE = 2


class Cluster(ABC):
    """A Kubernetes cluster with three worker nodes that pretend to have GPUs."""

    provider: Provider

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    @abstractmethod
    def kubeconfig(self) -> Path:
        """The kubeconfig of an administrator."""

    @property
    @abstractmethod
    def kubectl(self) -> Path:
        """The kubectl to use with it."""

    @property
    @abstractmethod
    def helm(self) -> Path:
        """The helm to use with it."""

    @property
    @abstractmethod
    def nodes(self) -> tuple[Node, ...]:
        """The three worker nodes: on-demand in zone-a, spot in zone-a, spot in zone-b, in this order."""

    @abstractmethod
    def exists(self) -> bool:
        """Tell whether there is such a cluster, started by `up` and not yet taken `down`."""

    @abstractmethod
    def up(self) -> None:
        """Bring up what is missing, up to all of it; return when pods can be created."""

    @abstractmethod
    def down(self) -> None:
        """Take away everything that `up` made, whatever state it is in."""

    def kubelet_folder(self, name: str) -> str:  # noqa: ARG002  only some providers have one for each node
        """Where the kubelet of a node keeps the volumes of pods, on that node."""
        return "/var/lib/kubelet"

    @abstractmethod
    def stop_node(self, name: str, *, hard: bool = False) -> None:
        """Lose a node as when its machine goes off: everything on it is killed at once, and its pods' network is gone.

        Its processes' connections are closed by its kernel as that ends. With `hard` the network goes first, as when a cable is cut: peers
        hear nothing and find out by their own timeouts.
        """

    @abstractmethod
    def start_node(self, name: str) -> None:
        """Start a stopped node again; return when it is Ready with its labels and GPUs."""

    @contextmanager
    def api_server_stopped(self) -> Iterator[None]:
        """Have no API server while the block runs, as when the control plane's machine is off."""
        with step("stop the API server"):
            self._stop_api_server()
        try:
            yield
        finally:
            with step("start the API server"):
                self._start_api_server()

    def load(self, archive: Path, nodes: Sequence[str] | None = None) -> None:
        """Load every image of an archive into nodes (all three unless named), leaving out the nodes that have them."""
        archive = Path(archive)
        images = read_images(archive)
        wanted = [self.node(name) for name in nodes] if nodes is not None else list(self.nodes)
        with step(f"load {', '.join(image.reference for image in images)} on {', '.join(n.name for n in wanted)}"):
            each(_LOADS_AT_ONCE, lambda node: self._load_on(node, archive, images), wanted)

    def service_url(self, namespace: str, name: str, port: int | str) -> str:
        """Return a URL for a Service's port (its number or its name) that this machine can open as long as the cluster lives.

        Pods behind the Service may come and go meanwhile. This default forwards a port of 127.0.0.1 and keeps doing so.
        """
        number = find_port(self._service(namespace, name), port)
        local = forward.ensure(self.folder, self.client(), namespace=namespace, name=name, port=number)
        return f"http://127.0.0.1:{local}"

    def node(self, name: str) -> Node:
        """Find a node by its name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ClusterError(f"There is no node {name}; there are {', '.join(node.name for node in self.nodes)}.")

    def client(self) -> Kubectl:
        """Bind kubectl to this cluster."""
        return Kubectl(self.kubectl, self.kubeconfig, self.folder / "kubectl-cache")

    def status(self) -> tuple[list[str], bool]:
        """Describe the cluster line by line, and tell whether all of it is well."""
        if not self.exists():
            return [f"{self.provider}: no cluster"], False
        lines, is_well = [f"{self.provider}: {self.kubeconfig}"], True
        try:
            seen = {node["metadata"]["name"]: node for node in self.client().get("/api/v1/nodes")["items"]}
            nodes = self.nodes
        except ClusterError as error:
            return [*lines, str(error)], False
        for node in nodes:
            state = seen.get(node.name, {})
            words = [
                "Ready" if is_ready(state) else "NotReady",
                "with labels and GPUs" if state and has_profile(state, node.profile) else "without its labels or GPUs",
            ]
            is_well = is_well and not any(word.startswith(("Not", "without")) for word in words)
            lines.append(f"{node.name}  {node.profile.capacity_type}  {node.profile.zone}  {', '.join(words)}")
        return lines, is_well

    @abstractmethod
    def _stop_api_server(self) -> None:
        """Take the API server away at once."""

    @abstractmethod
    def _start_api_server(self) -> None:
        """Bring it back; return when it answers."""

    @abstractmethod
    def _load_on(self, node: Node, archive: Path, images: Sequence[Image]) -> None:
        """Load an archive into one node, unless it has all of its images."""

    def _forget(self, *names: str) -> None:
        """Remove what this program put in the cluster's folder, and the folder where nothing else is in it."""
        forward.stop_all(self.folder)
        for name in ("forwards", "kubectl-cache", *names):
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _service(self, namespace: str, name: str) -> dict[str, Any]:
        return self.client().get(f"/api/v1/namespaces/{namespace}/services/{name}")


_Item = TypeVar("_Item")


def each(at_once: int, act: Callable[[_Item], None], items: Sequence[_Item]) -> None:
    """Do the same to every item, a few at once; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(at_once) as pool:
        for outcome in [pool.submit(act, item) for item in items]:
            outcome.result()


def find_port(service: dict[str, Any], port: int | str) -> int:
    """Find a Service's port by number or by name."""
    for candidate in service["spec"]["ports"]:
        if port in {candidate["port"], candidate.get("name")}:
            return int(candidate["port"])
    raise ClusterError(f"Service {service['metadata']['name']} has no port {port}.")


def parse_present(listing: str) -> dict[str, str]:
    """Read references and digests from `ctr images ls`."""
    rows = [line.split() for line in listing.splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) > 2}


def has_all(present: dict[str, str], images: Sequence[Image]) -> bool:
    """Tell whether a node holds every image under the name that kubelets ask for, with the archive's content."""
    return all(image.digest is not None and present.get(image.full_reference) == image.digest for image in images)


def naming_commands(images: Sequence[Image]) -> list[list[str]]:
    """Say what `ctr` must do after an import so that short references are found under their full names."""
    short = [image for image in images if image.reference != image.full_reference]
    return [
        *(["images", "tag", "--force", image.reference, image.full_reference] for image in short),
        *(["images", "rm", image.reference] for image in short),
    ]


def run(argv: Sequence[str]) -> str:
    """Run a program and return what it printed; its own words are the error."""
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClusterError(f"{argv[0]} is not on PATH: install it.") from error
    if answer.returncode:
        said = (answer.stderr or answer.stdout).strip()
        raise ClusterError(f"`{shlex.join(argv[:4])} …` failed with exit code {answer.returncode}: {said[-800:]}")
    return answer.stdout
