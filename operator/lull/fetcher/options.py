"""How fetching is done: endpoints, credentials and patience. Reads the environment that it is given, and a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lull.fetcher.failures import Forbidden
from lull.fetcher.snapshot import Weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lull.core.sizing import Wishes

DEFAULT_HUB: Final = "https://huggingface.co"
DOCKER_CONFIG: Final = ".dockerconfigjson"
SERVICE_ACCOUNT: Final = "service-account.json"
_KEYS: Final = (
    "token",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    SERVICE_ACCOUNT,
    DOCKER_CONFIG,
)
_MAX_CREDENTIAL: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where sources are, other than where everybody's are."""

    hub: str = DEFAULT_HUB
    s3: str | None = None
    gs: str | None = None
    plain_http: frozenset[str] = frozenset()
    """Registries that are spoken to without TLS."""


@dataclass(frozen=True, slots=True)
class Options:
    """What one run of the fetcher goes by."""

    endpoints: Endpoints = Endpoints()
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By the keys of the Secret; `token` opens the hub."""
    check: Wishes | None = None
    """What the LLMDeployment asks of the model: compared with its config.json before the weights are fetched."""
    weights: Weights = Weights.SAFETENSORS
    patience: float = 300.0
    """Seconds without a single byte after which a source that fails is given up."""
    silence: float = 30.0
    """Seconds of silence after which one connection is given up."""
    parallel: int = 4
    report_every: float = 2.0
    beat_every: float = 2.0
    """Seconds between two signs of life of the run that holds the target's lock."""
    stale_after: float = 20.0
    """Seconds without such a sign after which another run takes the lock."""


def parse_endpoints(environment: Mapping[str, str]) -> Endpoints:
    """Read the settings that the operator gives every fetcher; empty ones are as good as absent."""

    def url(name: str) -> str | None:
        return environment.get(name, "").strip().rstrip("/") or None

    hosts = (host.strip() for host in environment.get("LULL_OCI_PLAIN_HTTP", "").split(","))
    return Endpoints(
        hub=url("HF_ENDPOINT") or DEFAULT_HUB,
        s3=url("AWS_ENDPOINT_URL"),
        gs=url("LULL_GS_ENDPOINT"),
        plain_http=frozenset(host for host in hosts if host),
    )


def read_credentials(folder: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Read a mounted Secret's known keys; HF_TOKEN stands in for a `token` that is not there."""
    found = {"token": environment.get("HF_TOKEN", "").strip()}
    for path in [folder / key for key in _KEYS] if folder is not None else []:
        try:
            with path.open("rb") as content:
                found[path.name] = content.read(_MAX_CREDENTIAL).decode(errors="replace").strip()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Forbidden(f"{path.name} of the mounted Secret cannot be read: {error.strerror}.") from error
    return {key: value for key, value in found.items() if value}
