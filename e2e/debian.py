"""Programs from Debian's packages, unpacked into the cache and not installed."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cache import cache_folder
from e2e.cluster.model import ClusterError
from e2e.cluster.tools import locked, run_tool
from e2e.progress import step

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, slots=True)
class Program:
    """Where it lies, and the environment in which it finds its libraries."""

    executable: Path
    libraries: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.libraries}

    def beside(self, name: str) -> "Program":
        """Another program of the same packages."""
        return Program(self.executable.with_name(name), self.libraries)


def find_program(name: str, packages: Sequence[str], *, advice: str) -> Program:
    """Find it on PATH, or unpack it once; ClusterError says what to install where that cannot be done."""
    if path := shutil.which(name):
        return Program(Path(path))
    if not shutil.which("apt-get"):
        raise ClusterError(f"{name} is not on PATH, and this is no Debian: {advice}.")
    with locked(cache_folder() / f"{name}.lock"):
        release, mirror = _find_mirror(name, advice)
        folder = cache_folder() / f"{name}-{release}"
        if not folder.exists():
            _unpack(name, packages, folder, release, mirror)
    libraries = {str(path.parent) for path in folder.glob("usr/lib/*/*.so.*")}
    return Program(folder / "usr" / "bin" / name, {"LD_LIBRARY_PATH": ":".join(sorted(libraries))} if libraries else {})


def _find_mirror(name: str, advice: str) -> tuple[str, str]:
    """The release, and where this machine has its packages from."""
    answer = run_tool(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI) $(COMPONENT)", "Created-By: Packages"]
    )
    rows = [line.split() for line in answer.splitlines()]
    known = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    release = known.get("VERSION_CODENAME", "")
    mirror = next((row[1] for row in rows if (row[0], row[-1]) == (release, "main")), None)
    if known.get("ID") != "debian" or mirror is None or not _KEYRING.exists():
        raise ClusterError(f"{name} is not on PATH, and Debian's packages are not to be had here: {advice}.")
    return release, mirror


def _unpack(name: str, packages: Sequence[str], folder: Path, release: str, mirror: str) -> None:
    """Fetch the packages with apt, which checks them, by lists of our own: those of this machine stay as they are."""
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    apt, root = unfinished / "apt", unfinished / "root"
    for needed in (apt / "sources", apt / "lists" / "partial", apt / "cache" / "archives" / "partial", root):
        needed.mkdir(parents=True)
    (apt / "sources" / f"{name}.sources").write_text(
        f"Types: deb\nURIs: {mirror}\nSuites: {release} {release}-backports\nComponents: main\nSigned-By: {_KEYRING}\n"
    )
    options = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": str(apt / "sources"),
        "Dir::State::Lists": str(apt / "lists"),
        "Dir::Cache": str(apt / "cache"),
        "APT::Sandbox::User": "",
    }
    get = ["apt-get", "-qq", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    with step(f"fetch {name}"):
        run_tool([*get, "update"])
        run_tool([*get, "download", *packages], cwd=apt)
        for package in sorted(apt.glob("*.deb")):
            run_tool(["dpkg-deb", "-x", str(package), str(root)])
    root.replace(folder)
    shutil.rmtree(unfinished)
