"""A real Valkey server: from PATH, or from Debian's packages, unpacked into the cache and not installed."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cache import cache_folder
from e2e.cluster.model import ClusterError
from e2e.cluster.tools import locked, run_tool
from e2e.progress import step

PROGRAM = "valkey-server"
_PACKAGES = ("valkey-server", "valkey-tools", "libatomic1", "libjemalloc2", "liblzf1")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ADVICE = "install Valkey 7.2 or later (https://valkey.io/download/)"


@dataclass(frozen=True, slots=True)
class Server:
    """A program, and the environment in which it finds its libraries."""

    executable: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, folder: Path, *, port: int, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Listen on loopback, with nothing kept on disk."""
        argv = [str(self.executable), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        with (folder / "valkey.log").open("ab") as log:
            return subprocess.Popen(
                [*argv, "--save", "", "--appendonly", "no", *options],
                env=os.environ | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def find_server() -> Server:
    """Find it on PATH, or unpack it once; ClusterError says what to install where that cannot be done."""
    if path := shutil.which(PROGRAM):
        return Server(Path(path))
    if not shutil.which("apt-get"):
        raise ClusterError(f"{PROGRAM} is not on PATH, and this is no Debian: {_ADVICE}.")
    with locked(cache_folder() / "valkey.lock"):
        release, mirror = _find_mirror()
        folder = cache_folder() / f"valkey-{release}"
        if not folder.exists():
            _unpack(folder, release, mirror)
    (executable,) = folder.glob(f"usr/bin/{PROGRAM}")
    libraries = {str(path.parent) for path in folder.glob("usr/lib/*/*.so.*")}
    return Server(executable, {"LD_LIBRARY_PATH": ":".join(sorted(libraries))})


def _find_mirror() -> tuple[str, str]:
    """The release, and where this machine has its packages from."""
    answer = run_tool(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI) $(COMPONENT)", "Created-By: Packages"]
    )
    rows = [line.split() for line in answer.splitlines()]
    known = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    release = known.get("VERSION_CODENAME", "")
    mirror = next((row[1] for row in rows if (row[0], row[-1]) == (release, "main")), None)
    if known.get("ID") != "debian" or mirror is None or not _KEYRING.exists():
        raise ClusterError(f"{PROGRAM} is not on PATH, and Debian's packages are not to be had here: {_ADVICE}.")
    return release, mirror


def _unpack(folder: Path, release: str, mirror: str) -> None:
    """Fetch the packages with apt, which checks them, by lists of our own: those of this machine stay as they are."""
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    apt, root = unfinished / "apt", unfinished / "root"
    for needed in (apt / "sources", apt / "lists" / "partial", apt / "cache" / "archives" / "partial", root):
        needed.mkdir(parents=True)
    (apt / "sources" / "valkey.sources").write_text(
        f"Types: deb\nURIs: {mirror}\nSuites: {release} {release}-backports\nComponents: main\nSigned-By: {_KEYRING}\n"
    )
    options = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": str(apt / "sources"),
        "Dir::State::Lists": str(apt / "lists"),
        "Dir::Cache": str(apt / "cache"),
        "APT::Sandbox::User": "",
    }
    get = ["apt-get", "-qq", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    with step("fetch valkey-server"):
        run_tool([*get, "update"])
        run_tool([*get, "download", *_PACKAGES], cwd=apt)
        for package in sorted(apt.glob("*.deb")):
            run_tool(["dpkg-deb", "-x", str(package), str(root)])
    root.replace(folder)
    shutil.rmtree(unfinished)
