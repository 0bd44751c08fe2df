"""The local cluster on paper: addresses, ports, folders, and what each program is told. Nothing here touches the machine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.model import NODES, Node
from e2e.cluster.pki import Identity
from e2e.cluster.tools import PAUSE_REFERENCE, Toolbox

# Addresses of the cluster's own, put on the loopback device: the API server may not advertise 127.0.0.1, and kubelets that each have
# an address can all keep the usual ports.
ADDRESS_RANGE = "10.231.0.0/24"
API_ADDRESS = "10.231.0.1"
API_PORT = 6443
DNS_PORT = 53
ETCD_CLIENT_PORT = 23790
ETCD_PEER_PORT = 23791
KUBELET_PORT = 10250
KUBELET_HEALTH_PORT = 10248
PROXY_HEALTH_PORT = 10256
PROXY_METRICS_PORT = 10249
SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
POD_RANGE = "10.244.0.0/16"
CLUSTER_DOMAIN = "cluster.local"
CGROUP = "/lull"
CNI_NETWORK = "lull-local"
NFT_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))

# Kernel settings that the cluster, its kubelets or its kube-proxy change; `down` puts back what was there.
SETTINGS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)

# Folders outside its own that containerd, the CNI plugins and kubelets insist on; `down` removes those that `up` did not find there.
FIXED_FOLDERS = tuple(
    map(Path, ("/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods"))
)

_CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns", "kube-proxy")


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A node of the local cluster: its place in the address plan and its folder."""

    node: Node
    index: int
    cluster: Path

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def address(self) -> str:
        return f"10.231.0.{11 + self.index}"

    @property
    def pod_range(self) -> str:
        return f"10.244.{1 + self.index}.0/24"

    @property
    def folder(self) -> Path:
        return self.cluster / self.name

    @property
    def cgroup(self) -> str:
        return f"{CGROUP}/{self.name}"

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def runtime_state(self) -> Path:
        """What containerd keeps while it runs; a machine that loses power loses it."""
        return self.folder / "run"

    @property
    def containerd(self) -> str:
        return f"{self.name}.containerd"

    @property
    def kubelet(self) -> str:
        return f"{self.name}.kubelet"


@dataclass(frozen=True, slots=True)
class Machine:
    """What of the machine shows in the configuration."""

    cgroup_v2: bool
    sys_resource: bool
    cni: Path
    snapshotter: str


def local_nodes(folder: Path) -> tuple[LocalNode, ...]:
    return tuple(LocalNode(node, index, folder) for index, node in enumerate(NODES))


def process_names() -> list[str]:
    """Name every process of a whole cluster."""
    nodes = local_nodes(Path())
    return [*_CONTROL_PLANE, *(name for node in nodes for name in (node.containerd, node.kubelet))]


def sockets() -> list[tuple[str, int]]:
    """List the addresses and ports that must be free."""
    return [
        ("127.0.0.1", ETCD_CLIENT_PORT),
        ("127.0.0.1", ETCD_PEER_PORT),
        (API_ADDRESS, API_PORT),
        (API_ADDRESS, DNS_PORT),
        (API_ADDRESS, PROXY_HEALTH_PORT),
        (API_ADDRESS, PROXY_METRICS_PORT),
        *((node.address, port) for node in local_nodes(Path()) for port in (KUBELET_PORT, KUBELET_HEALTH_PORT)),
    ]


def identities() -> list[Identity]:
    """List who gets a certificate."""
    services = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    return [
        Identity(
            "apiserver",
            "kube-apiserver",
            names=(*services, f"kubernetes.default.svc.{CLUSTER_DOMAIN}", "localhost"),
            addresses=("127.0.0.1", SERVICE_ADDRESS, API_ADDRESS),
        ),
        Identity("admin", "admin", "system:masters"),
        Identity("kube-controller-manager", "system:kube-controller-manager"),
        Identity("kube-scheduler", "system:kube-scheduler"),
        Identity("kube-proxy", "system:kube-proxy"),
        *(
            Identity(node.name, f"system:node:{node.name}", "system:nodes", (node.name,), (node.address,))
            for node in local_nodes(Path())
        ),
    ]


def render_files(folder: Path, machine: Machine) -> dict[Path, str]:
    """Render every configuration file, by its path; certificates and kubeconfigs are not among them."""
    files = {
        folder / "Corefile": _corefile(folder),
        folder / "kube-proxy.yaml": _json(_proxy(folder)),
        # Pods ask the cluster's DNS; the machine's own search domains are none of theirs.
        folder / "resolv.conf": f"nameserver {API_ADDRESS}\n",
    }
    for node in local_nodes(folder):
        files[node.folder / "cni" / "10-ptp.conflist"] = _json(_cni(node))
        files[node.folder / "containerd.toml"] = _containerd(node, machine)
        files[node.folder / "kubelet.yaml"] = _json(_kubelet(node, machine))
    return files


def build_kubeconfig(folder: Path, identity: str) -> dict[str, Any]:
    """Build a kubeconfig that points at certificates in the cluster's folder."""
    pki = folder / "pki"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "lull",
                "cluster": {
                    "server": f"https://{API_ADDRESS}:{API_PORT}",
                    "certificate-authority": str(pki / "ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": identity,
                "user": {
                    "client-certificate": str(pki / f"{identity}.crt"),
                    "client-key": str(pki / f"{identity}.key"),
                },
            }
        ],
        "contexts": [{"name": "lull", "context": {"cluster": "lull", "user": identity}}],
        "current-context": "lull",
    }


def command(name: str, *, folder: Path, tools: Toolbox, containerd: str) -> list[str]:
    """Say how one process of the cluster is started."""
    pki = folder / "pki"
    etcd = f"http://127.0.0.1:{ETCD_CLIENT_PORT}"
    peers = f"http://127.0.0.1:{ETCD_PEER_PORT}"
    for node in local_nodes(folder):
        if name == node.containerd:
            return [containerd, "--config", str(node.folder / "containerd.toml")]
        if name == node.kubelet:
            return [
                str(tools["kubelet"]),
                f"--config={node.folder / 'kubelet.yaml'}",
                f"--kubeconfig={folder / f'{node.name}.kubeconfig'}",
                f"--hostname-override={node.name}",
                f"--node-ip={node.address}",
                f"--root-dir={node.folder / 'kubelet'}",
            ]
    options = {
        "etcd": [
            "--name=lull",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=lull={peers}",
            # Nothing in this cluster is worth a disk's flush at every write.
            "--unsafe-no-fsync",
        ],
        "kube-apiserver": [
            f"--etcd-servers={etcd}",
            f"--bind-address={API_ADDRESS}",
            f"--advertise-address={API_ADDRESS}",
            f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--service-node-port-range=30000-32767",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'admin.crt'}",
            f"--kubelet-client-key={pki / 'admin.key'}",
            # Node names are in no DNS; logs and exec go to addresses.
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={pki / 'sa.pub'}",
            f"--service-account-signing-key-file={pki / 'sa.key'}",
            f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
            "--authorization-mode=Node,RBAC",
            # On top of the defaults, PodSecurity among them.
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
        ],
        "kube-controller-manager": [
            f"--kubeconfig={folder / 'kube-controller-manager.kubeconfig'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'sa.key'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
            # Its thirty controllers start in one second instead of five, and a test's pods need not wait for their turn.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            f"--flex-volume-plugin-dir={folder / 'volume-plugins'}",
            # A lost node is noticed in ten seconds; kubelets renew their lease every two.
            "--node-monitor-period=1s",
            "--node-monitor-grace-period=10s",
        ],
        "kube-scheduler": [
            f"--kubeconfig={folder / 'kube-scheduler.kubeconfig'}",
            "--leader-elect=false",
            "--secure-port=0",
        ],
        "coredns": ["-conf", str(folder / "Corefile")],
        "kube-proxy": [f"--config={folder / 'kube-proxy.yaml'}"],
    }
    return [str(tools[name]), *options[name]]


def is_ours(argv: Sequence[str], folder: Path) -> bool:
    """Tell from a command line whether a process is one of this cluster's: a program of a node or of the control plane, or a shim."""
    program = argv[0].rpartition("/")[2]
    programs = {*_CONTROL_PLANE, "kubelet", "containerd", "containerd-shim-runc-v2"}
    return program in programs and any(f"{folder}/" in argument for argument in argv[1:])


def is_shim_of(argv: Sequence[str], node: LocalNode) -> bool:
    """Tell from a command line whether a process is a container's shim on a node."""
    return argv[0].rpartition("/")[2] == "containerd-shim-runc-v2" and str(node.socket) in argv


def pod_links(routes: str) -> list[str]:
    """Read the pods' links from `ip -json route show root RANGE`."""
    return [route["dev"] for route in json.loads(routes or "[]") if str(route.get("dev", "")).startswith("veth")]


def drops_forwarded(chains: str) -> bool:
    """Tell from `nft -j list chains` whether a firewall drops what the machine forwards, as Docker and ufw make it."""
    listed = [entry["chain"] for entry in json.loads(chains)["nftables"] if "chain" in entry]
    return any(chain.get("hook") == "forward" and chain.get("policy") == "drop" for chain in listed)


def _corefile(folder: Path) -> str:
    return f"""\
.:{DNS_PORT} {{
    bind {API_ADDRESS}
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {folder / "kubeconfig"} lull
        pods insecure
        ttl 5
    }}
    cache 5
}}
"""


def _proxy(folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(folder / "kube-proxy.kubeconfig")},
        "clusterCIDR": POD_RANGE,
        "healthzBindAddress": f"{API_ADDRESS}:{PROXY_HEALTH_PORT}",
        "metricsBindAddress": f"{API_ADDRESS}:{PROXY_METRICS_PORT}",
        "hostnameOverride": NODES[0].name,
        # Zero leaves the machine's connection tracking as it is.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "100ms"},
        "oomScoreAdj": 0,
    }


def _cni(node: LocalNode) -> dict[str, Any]:
    # ptp routes each pod on its own: Services need no bridge netfilter, and one subnet per node tells the nodes' pods apart.
    return {
        "cniVersion": "0.4.0",
        "name": CNI_NETWORK,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.pod_range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(node.folder / "addresses"),
                },
            }
        ],
    }


def _containerd(node: LocalNode, machine: Machine) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{node.folder}/containerd"
state = "{node.runtime_state}"

[grpc]
address = "{node.socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{node.folder}/opt"

[plugins."io.containerd.nri.v1.nri"]
disable = true

[{cri}]
sandbox_image = "{PAUSE_REFERENCE}"
restrict_oom_score_adj = {str(not machine.sys_resource).lower()}
netns_mounts_under_state_dir = true

[{cri}.cni]
bin_dir = "{machine.cni}"
conf_dir = "{node.folder}/cni"

[{cri}.containerd]
snapshotter = "{machine.snapshotter}"
default_runtime_name = "runc"

[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
Root = "{node.runtime_state}/runc"
SystemdCgroup = false
"""


def _kubelet(node: LocalNode, machine: Machine) -> dict[str, Any]:
    pki = node.cluster / "pki"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": KUBELET_PORT,
        "healthzBindAddress": node.address,
        "healthzPort": KUBELET_HEALTH_PORT,
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{node.name}.key"),
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "failCgroupV1": machine.cgroup_v2,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDNS": [API_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(node.cluster / "resolv.conf"),
        "maxPods": 110,
        # Kubelets that share the default folder delete each other's logs.
        "podLogsDir": str(node.folder / "logs"),
        "volumePluginDir": str(node.folder / "volume-plugins"),
        "staticPodPath": "",
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 2,
        # No registry can bring back an image that was collected, and the disk is the whole machine's.
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "240h",
        "evictionHard": {"memory.available": "100Mi"},
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "1m",
        "nodeLeaseDurationSeconds": 8,
        "shutdownGracePeriod": "0s",
        "serializeImagePulls": False,
        # The utility chains would be left in nft, and nothing here goes through iptables.
        "makeIPTablesUtilChains": False,
    }


def _json(value: Mapping[str, Any]) -> str:
    """Render as JSON, which every reader of YAML takes."""
    return json.dumps(value, indent=2) + "\n"
