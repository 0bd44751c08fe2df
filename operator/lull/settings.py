"""What each process is told by its environment (`LULL_*`); every wrong value is reported at once.

The chart writes these variables; `docs/operating.md` lists them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from lull.api import names

_URL = r"^(https?://\S+)?$"
_VALKEY_URL = r"^((valkeys?|rediss?)://\S+)?$"


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="LULL_", frozen=True, extra="ignore")

    namespace: Annotated[str, Field(description="Namespace that this process runs in.")] = "lull-system"
    pod_name: Annotated[str, Field(description="Name of this pod: the Lease's holder, the gateway's id.")] = "local"
    watch_namespace: Annotated[str, Field(description="Only namespace to serve; empty means all.")] = ""
    admin_port: Annotated[int, Field(ge=1, le=65535, description="Port of /healthz, /readyz, /metrics.")] = (
        names.PORT_ADMIN
    )
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"

    @property
    def scope(self) -> str | None:
        """Namespace to watch, or None for the whole cluster."""
        return self.watch_namespace or None


class OperatorSettings(_Settings):
    image: Annotated[str, Field(description="Image of Lull itself, for the fetcher in engine pods.")] = (
        "lull/lull:0.1.0"
    )
    image_pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] = "IfNotPresent"
    hub_endpoint: Annotated[str, Field(description="Base URL of the Hugging Face hub or a mirror of it.")] = (
        "https://huggingface.co"
    )
    s3_endpoint: Annotated[
        str, Field(pattern=_URL, description="Base URL of the S3 API for s3:// sources; empty means Amazon's.")
    ] = ""
    gs_endpoint: Annotated[
        str,
        Field(pattern=_URL, description="Base URL of the Cloud Storage API for gs:// sources; empty means Google's."),
    ] = ""
    oci_plain_http: Annotated[
        str, Field(description="Registries (host or host:port, comma-separated) that oci:// sources reach without TLS.")
    ] = ""
    pass_labels: Annotated[
        str, Field(description="Labels of an LLMDeployment (keys, comma-separated) that its pods get too.")
    ] = ""
    nodes_autoscaled: Annotated[
        bool, Field(description="Whether nodes may be added: a pod larger than any present node is then not refused.")
    ] = False
    gateway_url: Annotated[str, Field(description="Base URL for clients, as status.url shows it.")] = (
        "http://lull-gateway.lull-system.svc/v1"
    )
    gateway_service: Annotated[str, Field(description="Name of the gateways' headless Service.")] = "lull-gateway-admin"
    prices_file: Annotated[
        str, Field(description="YAML with prices of accelerators, read again when it changes; none are known without.")
    ] = "/etc/lull/prices/prices.yaml"
    prometheus_url: Annotated[
        str,
        Field(pattern=_URL, description="Base URL of the Prometheus that forecasts are learnt from; empty means none."),
    ] = ""
    prometheus_credentials: Annotated[
        str,
        Field(
            description="Folder with what it is to be asked with, each if needed: token, headers (Name: value), ca.crt."
        ),
    ] = ""
    lease_name: str = "lull-operator"
    lease_seconds: Annotated[float, Field(ge=3, le=300)] = 15.0
    tick_seconds: Annotated[float, Field(ge=0.1, le=60, description="Pause between looks at demand.")] = 1.0
    stale_seconds: Annotated[float, Field(ge=1, le=600, description="Age at which a signal no longer counts.")] = 10.0
    engine_tick_seconds: Annotated[
        float, Field(ge=1, le=60, description="Pause between looks at the engines' own metrics.")
    ] = 5.0
    resync_seconds: Annotated[float, Field(ge=10, le=3600, description="Every object is reconciled this often.")] = (
        300.0
    )
    concurrent_reconciles: Annotated[int, Field(ge=1, le=64, description="Reconciles at a time.")] = 8

    @property
    def passed_labels(self) -> tuple[str, ...]:
        """Keys of the labels that pods take over from their LLMDeployment."""
        return tuple(key for part in self.pass_labels.split(",") if (key := part.strip()))


class GatewaySettings(_Settings):
    access_log: Annotated[
        str,
        Field(pattern="^(all|errors|off)$", description="Requests that get a line in the log: all, errors or off."),
    ] = "all"
    port: Annotated[int, Field(ge=1, le=65535, description="Port for clients.")] = names.PORT_GATEWAY
    workers: Annotated[
        int,
        BeforeValidator(lambda given: 0 if given == "auto" else given),
        Field(ge=0, le=64, description="Processes behind the port; 0 or auto: one for each core that they may use."),
    ] = 1
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 16 * 1024 * 1024
    max_connections: Annotated[int, Field(ge=1, le=1_000_000, description="Clients' connections at a time.")] = 100_000
    head_seconds: Annotated[float, Field(ge=0.1, le=600, description="Longest time to receive a request's head.")] = (
        15.0
    )
    body_seconds: Annotated[float, Field(ge=0.1, le=600, description="Longest time to receive a body.")] = 30.0
    connect_seconds: Annotated[float, Field(ge=0.1, le=60)] = 2.0
    first_byte_seconds: Annotated[float, Field(ge=1, le=7200, description="Longest wait for an engine's answer.")] = (
        600.0
    )
    idle_seconds: Annotated[float, Field(ge=0.1, le=7200, description="Longest silence within a stream.")] = 300.0
    sync_seconds: Annotated[
        float, Field(ge=0, le=600, description="Longest wait of a request for the first list of models.")
    ] = 10.0
    max_pending_bytes: Annotated[
        int, Field(ge=1024, le=1 << 40, description="Memory for the bodies of all requests that are not answered yet.")
    ] = 256 * 1024 * 1024
    lame_duck_seconds: Annotated[
        float, Field(ge=0, le=600, description="When told to stop: time for others to notice, while all is served.")
    ] = 5.0
    drain_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86400,
            description="When told to stop: time for requests to finish; the process ends with the last one.",
        ),
    ] = 3600.0
    max_tries: Annotated[int, Field(ge=1, le=10, description="Endpoints tried before the first byte.")] = 3
    heartbeat_seconds: Annotated[
        float,
        Field(ge=0.1, le=600, description="Held streams get an SSE comment this often, after the first such wait."),
    ] = 15.0
    keys_required: Annotated[bool, Field(description="Whether requests without a key that is known get 401.")] = False
    keys_secret: Annotated[
        str, Field(description="Secret in this namespace that holds the keys; empty means that there are none.")
    ] = "lull-gateway-keys"  # noqa: S105  a name
    valkey_url: Annotated[
        str,
        Field(
            pattern=_VALKEY_URL,
            description="Valkey by which gateways share limits (valkey://host:6379/0); empty means each for itself.",
        ),
    ] = ""
    valkey_password: Annotated[str, Field(repr=False, description="Its password, where the URL has none.")] = ""
