"""The provider for a bare Linux machine: a control plane, three containerds and three kubelets as processes of the machine."""

import datetime as dt
import fcntl
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from typing_extensions import override

from e2e.cache import cache_folder
from e2e.cluster import layout, machine, processes
from e2e.cluster.archives import Image, read_images
from e2e.cluster.base import Cluster, find_port, has_all, naming_commands, parse_present, run
from e2e.cluster.layout import LocalNode
from e2e.cluster.model import NODES, ClusterError, Node, Provider
from e2e.cluster.nodes import settle
from e2e.cluster.pki import write_pki
from e2e.cluster.state import State, StateFile
from e2e.cluster.tools import Toolbox, build_toolbox, find_cni, install_packages, missing_packages
from e2e.progress import say, step, wait_until

_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_SHIM_SOCKET = re.compile(r"unix://(/run/containerd/s/[0-9a-f]+)")
_UNREACHABLE_METRIC = "4096"

# Only a folder with this file in it is ever deleted: LULL_CLUSTER_DIR may name any.
_MARK = ".lull-cluster"


class LocalCluster(Cluster):
    """A cluster whose nodes are processes, cgroups and network namespaces of this machine."""

    provider = Provider.LOCAL

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._state = StateFile(folder / "state.json")
        self._local_nodes = layout.local_nodes(folder)

    @property
    def _tools(self) -> Toolbox:
        """The programs that the last `up` took, so that commands after it need no Go to find them."""
        try:
            paths: dict[str, str] = json.loads((self.folder / "tools.json").read_text())
        except (OSError, ValueError):
            return build_toolbox()
        return Toolbox({name: Path(path) for name, path in paths.items()})

    @property
    @override
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    @override
    def kubectl(self) -> Path:
        return self._tools["kubectl"]

    @property
    @override
    def helm(self) -> Path:
        return self._tools["helm"]

    @property
    @override
    def nodes(self) -> tuple[Node, ...]:
        return NODES

    @override
    def exists(self) -> bool:
        return self._state.read() is not None

    @override
    def up(self) -> None:
        with self._alone():
            self._check_machine()
            tools = build_toolbox()
            is_new = not self._is_sound()
            if is_new:
                self._sweep()
                self._prepare()
            self._remember(tools)
            try:
                self._start_missing()
            except ClusterError as error:
                if is_new:
                    raise
                say(f"  {error}\n  The cluster cannot be mended; starting it anew.")
                self._sweep()
                self._prepare()
                self._remember(tools)
                self._start_missing()

    @override
    def down(self) -> None:
        if sys.platform != "linux":
            return
        with self._alone():
            self._sweep()

    @override
    def service_url(self, namespace: str, name: str, port: int | str) -> str:
        """Return the Service's own address, which this machine reaches like a pod does."""
        service = self._service(namespace, name)
        return f"http://{service['spec']['clusterIP']}:{find_port(service, port)}"

    @override
    @override
    def kubelet_folder(self, name: str) -> str:
        return str(self._local_node(name).folder / "kubelet")

    @override
    def stop_node(self, name: str, *, hard: bool = False) -> None:
        node = self._local_node(name)
        with self._alone(), step(f"stop {name}"):
            if hard:
                machine.ip("route", "replace", "blackhole", node.pod_range)
                self._cut_off([node])
            self._power_off([node])

    @override
    def start_node(self, name: str) -> None:
        node = self._local_node(name)
        with self._alone(), step(f"start {name}"):
            self._start_runtime(node)
            settle(self.client(), {node.node: self._start_kubelet(node)})

    @override
    def _stop_api_server(self) -> None:
        with self._alone():
            if state := self._state.read():
                # They run on the same machine, and after minutes without it would take minutes to ask again.
                names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
                processes.kill([state.processes[name] for name in names])

    @override
    def _start_api_server(self) -> None:
        with self._alone():
            self._start_control_plane()

    @override
    def status(self) -> tuple[list[str], bool]:
        state = self._state.read()
        if state is None:
            return super().status()
        lines, is_well = super().status()
        dead = [name for name in layout.process_names() if not self._is_running(name)]
        return ([*lines, f"not running: {', '.join(dead)}"] if dead else lines), is_well and not dead

    @override
    def _load_on(self, node: Node, archive: Path, images: Sequence[Image]) -> None:
        local = self._local_node(node.name)
        if not self._is_running(local.containerd):
            raise ClusterError(f"{node.name} is stopped: `start-node {node.name}` first.")
        if not has_all(parse_present(_ctr(local, "images", "ls")), images):
            snapshotter = machine.choose_snapshotter(machine.read_mounts(), self.folder)
            _ctr(local, "images", "import", f"--snapshotter={snapshotter}", str(archive))
            for arguments in naming_commands(images):
                _ctr(local, *arguments)

    def _check_machine(self) -> None:
        """Find all that is in the way at once; install what is missing where Debian can."""
        if sys.platform != "linux":
            raise ClusterError("The local cluster needs Linux: start Docker and install kind, or set LULL_KUBECONFIG.")
        if os.geteuid() != 0:
            raise ClusterError("The local cluster needs root: run it with sudo, or start Docker and install kind.")
        faults = []
        if packages := missing_packages():
            if shutil.which("apt-get"):
                install_packages(packages)
            else:
                faults.append(f"Install the programs of these Debian packages: {', '.join(packages)}.")
        hierarchies = machine.cgroup_hierarchies(machine.read_mounts())
        if not hierarchies or not all(os.access(hierarchy, os.W_OK) for hierarchy in hierarchies):
            faults.append("No cgroup can be made here: mount /sys/fs/cgroup writable (a container needs --privileged).")
        if not any(self._is_running(name) for name in layout.process_names()):
            strangers = machine.bound_sockets()
            ours = layout.sockets() if not self._left_running() else []
            taken = [f"{at}:{port}" for at, port in ours if {(at, port), ("0.0.0.0", port)} & strangers]
            if taken:
                faults.append(f"End what listens on {', '.join(taken)}.")
        if shutil.which("nft") and _drops_forwarded():
            faults.append("A firewall drops forwarded packets: `iptables -P FORWARD ACCEPT`, or use Docker with kind.")
        if faults:
            raise ClusterError(" ".join(faults))

    def _is_sound(self) -> bool:
        """Tell whether there is a cluster to mend: its state can be read and its files are whole."""
        return self._state.read() is not None and (self.folder / "complete").exists()

    def _prepare(self) -> None:
        """Write certificates and configuration; remember how the machine is."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        if any(self.folder.iterdir()):
            raise ClusterError(f"{self.folder} holds other files: name an empty folder by LULL_CLUSTER_DIR.")
        (self.folder / _MARK).touch()
        self._state.write(
            State(
                boot=machine.boot_id(),
                settings=machine.read_settings(layout.SETTINGS),
                absent=tuple(str(folder) for folder in layout.FIXED_FOLDERS if not folder.exists()),
                processes={},
            )
        )
        (self.folder / "log").mkdir(exist_ok=True)
        identities = layout.identities()
        write_pki(self.folder / "pki", identities, now=dt.datetime.now(dt.UTC))
        for identity in identities:
            file = "kubeconfig" if identity.file == "admin" else f"{identity.file}.kubeconfig"
            path = self.folder / file
            path.touch(mode=0o600)
            path.write_text(json.dumps(layout.build_kubeconfig(self.folder, identity.file), indent=2))
        cni = find_cni()
        if cni is None:
            raise ClusterError("The CNI plugins are missing: install containernetworking-plugins.")
        mounts = machine.read_mounts()
        here = layout.Machine(
            cgroup_v2=machine.is_cgroup_v2(mounts),
            snapshotter=machine.choose_snapshotter(mounts, self.folder),
            sys_resource=machine.has_sys_resource(Path("/proc/self/status").read_text()),
            cni=cni,
        )
        for path, content in layout.render_files(self.folder, here).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (self.folder / "complete").touch()

    def _remember(self, tools: Toolbox) -> None:
        (self.folder / "tools.json").write_text(json.dumps({name: str(path) for name, path in tools.paths.items()}))

    def _start_missing(self) -> None:
        """Start what does not run, the control plane and the nodes' runtimes side by side; wait until pods can be created."""
        if (state := self._state.read()) and state.boot != machine.boot_id():
            # The numbers of another boot's processes may be anybody's by now.
            self._state.write(replace(state, boot=machine.boot_id(), processes={}))
        self._set_up_network()
        with step("control plane and container runtimes"), ThreadPoolExecutor(1 + len(self._local_nodes)) as pool:
            api = pool.submit(self._start_control_plane)
            runtimes = [pool.submit(self._start_runtime, node) for node in self._local_nodes]
            api.result()
            for runtime in runtimes:
                runtime.result()
        with step("nodes Ready, with labels and GPUs"):
            settle(self.client(), {node.node: self._start_kubelet(node) for node in self._local_nodes})
        with step("DNS and service accounts"):
            self._await("coredns", lambda: machine.accepts(layout.API_ADDRESS, layout.DNS_PORT))
            self._await("kube-proxy", lambda: machine.accepts(layout.API_ADDRESS, layout.PROXY_HEALTH_PORT))
            self._await("kube-controller-manager", self._has_service_account)

    def _set_up_network(self) -> None:
        for address in (layout.API_ADDRESS, *(node.address for node in self._local_nodes)):
            machine.ip("address", "add", f"{address}/32", "dev", "lo")
        # Service addresses need a route of some kind before nft can send them on, and a machine may have no default route; addresses
        # of pods that are gone must not wander off by it.
        machine.ip("route", "replace", layout.SERVICE_RANGE, "dev", "lo", "src", layout.API_ADDRESS)
        machine.ip("route", "replace", "unreachable", layout.POD_RANGE, "metric", _UNREACHABLE_METRIC)
        machine.write_settings({"net.ipv4.ip_forward": "1"})

    def _start_control_plane(self) -> None:
        self._ensure("etcd")
        self._await("etcd", lambda: machine.accepts("127.0.0.1", layout.ETCD_CLIENT_PORT))
        self._ensure("kube-apiserver")
        self._await("kube-apiserver", self._is_api_ready)
        for name in ("kube-controller-manager", "kube-scheduler", "coredns", "kube-proxy"):
            self._ensure(name)

    def _start_runtime(self, node: LocalNode) -> None:
        if not self._is_running(node.containerd) and not processes.find(lambda argv: layout.is_shim_of(argv, node)):
            # As after a power cut: what the runtime remembers of running containers is of none.
            self._power_off([node])
        machine.ip("route", "delete", "blackhole", node.pod_range)
        cpus = os.cpu_count() or 1
        machine.make_cgroup(layout.CGROUP, cpus=cpus * len(self._local_nodes))
        machine.make_cgroup(node.cgroup, cpus=cpus)
        self._ensure(node.containerd)
        self._await(node.containerd, lambda: _answers(node))
        pause = self._tools["pause.tar"]
        self._load_on(node.node, pause, read_images(pause))

    def _start_kubelet(self, node: LocalNode) -> dt.datetime | None:
        """Start a node's kubelet unless it runs; return when it was started."""
        now = dt.datetime.now(dt.UTC)
        return now if self._ensure(node.kubelet) else None

    def _ensure(self, name: str) -> bool:
        """Start a process unless it runs; tell whether it was started."""
        if self._is_running(name):
            return False
        containerd = shutil.which("containerd") or "containerd"
        argv = layout.command(name, folder=self.folder, tools=self._tools, containerd=containerd)
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        self._state.record(
            name,
            processes.start(argv, log=self.folder / "log" / f"{name}.log", environment=environment, cwd=self.folder),
        )
        return True

    def _is_running(self, name: str) -> bool:
        state = self._state.read()
        return bool(
            state
            and state.boot == machine.boot_id()
            and name in state.processes
            and processes.is_running(state.processes[name])
        )

    def _await(self, name: str, is_true: Callable[[], bool], *, seconds: float = 60) -> None:
        """Wait for a process to do what it is for; give up when it ends."""
        wait_until(lambda: is_true() or not self._is_running(name), seconds=seconds)
        if not self._is_running(name) or not is_true():
            log = self.folder / "log" / f"{name}.log"
            last = "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else ""
            fault = "does not answer" if self._is_running(name) else "ended"
            raise ClusterError(f"{name} {fault}; its log {log} ends:\n{last}")

    def _is_api_ready(self) -> bool:
        try:
            trust = ssl.create_default_context(cafile=self.folder / "pki" / "ca.crt")
            trust.load_cert_chain(self.folder / "pki" / "admin.crt", self.folder / "pki" / "admin.key")
            url = f"https://{layout.API_ADDRESS}:{layout.API_PORT}/readyz"
            # A proxy that the environment names has no way to an address of this machine.
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
            )
            with opener.open(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _has_service_account(self) -> bool:
        try:
            self.client().get("/api/v1/namespaces/default/serviceaccounts/default")
        except ClusterError:
            return False
        return True

    def _left_running(self) -> list[processes.Process]:
        """Find processes of this cluster by their command lines, whatever the state says."""
        return processes.find(lambda argv: layout.is_ours(argv, self.folder))

    def _power_off(self, nodes: Sequence[LocalNode]) -> None:
        """Kill all that runs on nodes and take away what a machine without power does not keep; disks stay as they are."""
        recorded = (state := self._state.read()) and state.boot == machine.boot_id() and state.processes
        daemons = [
            recorded[name]
            for node in nodes
            for name in (node.kubelet, node.containerd)
            if recorded and name in recorded
        ]
        # Kubelet and containerd first, so that nobody reports what happens to the rest or starts it again.
        processes.kill(daemons)
        _kill_all(lambda: [found for node in nodes for found in _containers(node)])
        for node in nodes:
            self._cut_off([node])
            _remove_shim_sockets(node)
            machine.unmount_under(node.folder)
            machine.remove_cgroup(node.cgroup)
            shutil.rmtree(node.runtime_state, ignore_errors=True)
            node.socket.unlink(missing_ok=True)

    def _cut_off(self, nodes: Sequence[LocalNode]) -> None:
        """Delete the links of nodes' pods."""
        for node in nodes:
            listing = run(["ip", "-json", "route", "show", "root", node.pod_range])
            for link in layout.pod_links(listing):
                machine.ip("link", "delete", link)

    def _sweep(self) -> None:
        """Take away every trace of a cluster, whole or half."""
        state = self._state.read()
        if state is None and not (self.folder / _MARK).exists() and not self._left_running():
            return
        with step("stop processes and containers"):
            recorded = list(state.processes.values()) if state and state.boot == machine.boot_id() else []
            processes.kill(recorded)
            _kill_all(lambda: self._left_running() + processes.from_pids(machine.cgroup_pids(layout.CGROUP)))
        with step("remove mounts, network, cgroups and files"):
            self._power_off(self._local_nodes)
            machine.unmount_under(self.folder)
            machine.remove_cgroup(layout.CGROUP)
            machine.delete_tables(layout.NFT_TABLES)
            machine.ip("route", "delete", layout.SERVICE_RANGE, "dev", "lo")
            machine.ip("route", "delete", "unreachable", layout.POD_RANGE, "metric", _UNREACHABLE_METRIC)
            for node in self._local_nodes:
                machine.ip("route", "delete", "blackhole", node.pod_range)
            for address in (layout.API_ADDRESS, *(node.address for node in self._local_nodes)):
                machine.ip("address", "delete", f"{address}/32", "dev", "lo")
            if state:
                machine.write_settings(state.settings)
                _remove_fixed_folders([Path(folder) for folder in state.absent])
            if (self.folder / _MARK).exists():
                shutil.rmtree(self.folder)
            # Where the default folder was made for the cluster alone, its parent goes as well.
            with suppress(OSError):
                self.folder.parent.rmdir()

    def _local_node(self, name: str) -> LocalNode:
        return next(local for local in self._local_nodes if local.node == self.node(name))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other commands out while this one changes the cluster."""
        lock = cache_folder() / "cluster.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield


def extend_environment() -> None:
    """Let this process and those that it starts find the system's programs, and reach the cluster past any proxy."""
    ranges = (layout.ADDRESS_RANGE, layout.SERVICE_RANGE, layout.POD_RANGE)
    # Where somebody became root without root's environment, the system's folders are not on PATH.
    for name, separator, wanted in (("PATH", ":", _SYSTEM_PATH), ("NO_PROXY", ",", ranges), ("no_proxy", ",", ranges)):
        found = [word for word in os.environ.get(name, "").split(separator) if word]
        os.environ[name] = separator.join([*found, *(word for word in wanted if word not in found)])


def _ctr(node: LocalNode, *arguments: str) -> str:
    return run(["ctr", f"--address={node.socket}", "--namespace=k8s.io", *arguments])


def _answers(node: LocalNode) -> bool:
    if not node.socket.exists():
        return False
    argv = ["ctr", f"--address={node.socket}", "--connect-timeout=1s", "version"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _containers(node: LocalNode) -> list[processes.Process]:
    shims = processes.find(lambda argv: layout.is_shim_of(argv, node))
    return shims + processes.from_pids(machine.cgroup_pids(node.cgroup))


def _kill_all(find: Callable[[], list[processes.Process]]) -> None:
    """Kill what is found until nothing is found any more; a shim that ends may leave a child behind."""
    for _ in range(10):
        if not (found := find()):
            return
        processes.kill(found)


def _remove_shim_sockets(node: LocalNode) -> None:
    # containerd puts the sockets of all its shims in one fixed folder and names each in the shim's own.
    tasks = node.runtime_state / "io.containerd.runtime.v2.task"
    for name in ("address", "bootstrap.json"):
        for record in tasks.glob(f"*/*/{name}"):
            with suppress(OSError):
                for socket in _SHIM_SOCKET.findall(record.read_text()):
                    Path(socket).unlink(missing_ok=True)


def _remove_fixed_folders(absent: Sequence[Path]) -> None:
    for results in Path("/var/lib/cni/results").glob(f"{layout.CNI_NETWORK}-*"):
        results.unlink(missing_ok=True)
    for folder in absent:
        # A containerd of the machine's own may have come up since.
        if not (folder / "containerd.sock").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _drops_forwarded() -> bool:
    answer = subprocess.run(["nft", "-j", "list", "chains", "ip"], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and layout.drops_forwarded(answer.stdout)
