"""vLLM's command line as far as it matters here, and `--sim-*` flags; other flags of vLLM are taken and ignored."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .engine import Speed
from .groups import Place

_UNITS = {"k": 1000, "m": 1_000_000, "K": 1024, "M": 1024**2}
_MODEL_LENGTH = 8192
_ALONE = Place()


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What may be changed at run time, by POST /sim/config."""

    prefill_tps: float = 20000.0
    decode_tps: float = 50.0
    kv_tokens: int = 1_000_000
    default_tokens: int = 16
    late_rejection: bool = False
    """A full queue is noticed after the head of a stream was sent: HTTP 200, then the error as an event."""
    fail_requests: int = 0
    """How many of the next completions fail before anything is sent."""
    fail_status: int = 500
    error_after_tokens: int = -1
    """After this many tokens a request ends with an error, inside a 200 if it streams."""
    drop_after_tokens: int = -1
    """After this many tokens the connection is cut."""
    torn_after_tokens: int = -1
    """After this many tokens comes half a chunk, and the connection is closed."""
    garbage: bool = False
    """Completions are answered with bytes that are no HTTP."""
    hang: bool = False
    """Nothing is generated, and nothing says so."""
    health_status: int = 200
    health_delay: float = 0.0
    death_delay: float = 2.0
    """Seconds from the death of the engine core to the end of the process."""
    unnoticed_death: float = 0.0
    """Seconds after that death in which /health still says 200."""
    lora_load_seconds: float = 0.01


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that is fixed at the start."""

    model: str
    served_names: tuple[str, ...]
    host: str
    port: int
    api_key: str | None
    max_model_len: int
    max_num_seqs: int
    max_num_queued_reqs: int | None
    enable_lora: bool
    max_loras: int
    max_lora_rank: int
    lora_modules: tuple[tuple[str, str], ...]
    shutdown_timeout: float
    tracks_load: bool
    echoes_request_id: bool
    dev_mode: bool
    is_pooling: bool
    runtime_lora: bool
    startup: float
    exit_after_startup: int | None
    eat_memory: int
    """MiB that are taken once it has started up, as weights that do not fit would be."""
    place: Place
    behaviour: Behaviour

    @property
    def speed(self) -> Speed:
        return speed_of(self.behaviour, self.max_num_seqs)


def speed_of(behaviour: Behaviour, max_num_seqs: int) -> Speed:
    return Speed(behaviour.prefill_tps, behaviour.decode_tps, max_num_seqs, behaviour.kv_tokens)


def parse_options(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Options:
    """Read `serve MODEL …`; a `--sim-x-y` flag has the default SIM_X_Y from the environment."""
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key", default=environ.get("VLLM_API_KEY"))
    parser.add_argument("--max-model-len", type=_length, default=_MODEL_LENGTH)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--max-num-queued-reqs", type=int)
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-loras", type=int, default=1)
    parser.add_argument("--max-lora-rank", type=int, default=16)
    parser.add_argument("--lora-modules", nargs="+", default=[])
    parser.add_argument("--runner", default="auto")
    parser.add_argument("--shutdown-timeout", type=float, default=0.0)
    parser.add_argument("--enable-server-load-tracking", action="store_true")
    parser.add_argument("--enable-request-id-headers", action="store_true")
    parser.add_argument("--nnodes", "-n", type=int, default=_ALONE.nodes)
    parser.add_argument("--node-rank", "-r", type=int, default=_ALONE.rank)
    parser.add_argument("--master-addr", default=_ALONE.address)
    parser.add_argument("--master-port", type=int, default=_ALONE.port)
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--distributed-timeout-seconds", type=float, default=_ALONE.timeout)

    def sim(name: str, kind: Callable[[str], object], default: object) -> None:
        text = environ.get(f"SIM_{name.upper().replace('-', '_')}")
        parser.add_argument(f"--sim-{name}", type=kind, default=kind(text) if text else default)

    for name, default in _defaults().items():
        sim(name.replace("_", "-"), _flag if isinstance(default, bool) else type(default), default)
    sim("startup", float, 0.0)
    sim("exit-after-startup", int, None)
    sim("eat-memory", int, 0)

    given, _ = parser.parse_known_args(list(_dashed(arguments)))
    model = given.model_tag or given.model or "sim"
    return Options(
        model=model,
        served_names=tuple(given.served_model_name or [model]),
        host=given.host,
        port=given.port,
        api_key=given.api_key,
        max_model_len=given.max_model_len if given.max_model_len > 0 else _MODEL_LENGTH,
        max_num_seqs=given.max_num_seqs,
        max_num_queued_reqs=given.max_num_queued_reqs,
        enable_lora=given.enable_lora,
        max_loras=given.max_loras,
        max_lora_rank=given.max_lora_rank,
        lora_modules=tuple((name, path) for name, _, path in (each.partition("=") for each in given.lora_modules)),
        shutdown_timeout=given.shutdown_timeout,
        tracks_load=given.enable_server_load_tracking,
        echoes_request_id=given.enable_request_id_headers,
        dev_mode=_flag(environ.get("VLLM_SERVER_DEV_MODE", "0")),
        is_pooling=given.runner == "pooling",
        runtime_lora=_flag(environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "0")),
        startup=given.sim_startup,
        exit_after_startup=given.sim_exit_after_startup,
        eat_memory=given.sim_eat_memory,
        place=Place(
            nodes=given.nnodes,
            rank=given.node_rank,
            address=given.master_addr,
            port=given.master_port,
            headless=given.headless,
            timeout=given.distributed_timeout_seconds,
        ),
        behaviour=Behaviour(**{name: getattr(given, f"sim_{name}") for name in _defaults()}),
    )


def missing_model(options: Options) -> str | None:
    """Say why a local model cannot be opened; a name that is not a path is taken as it is."""
    path = Path(options.model)
    if path.is_absolute() and not (path / "config.json").is_file():
        return f"Invalid repository ID or local directory specified: '{options.model}'."
    return None


def _defaults() -> dict[str, float | int | bool]:
    behaviour = Behaviour()
    return {name: getattr(behaviour, name) for name in Behaviour.__dataclass_fields__}


def _dashed(arguments: Sequence[str]) -> list[str]:
    """Let flags be written with underscores, as vLLM does."""
    return [
        f"{name.replace('_', '-')}{separator}{value}" if name.startswith("--") else argument
        for argument in arguments
        for name, separator, value in [argument.partition("=")]
    ]


def _length(text: str) -> int:
    if text == "auto":
        return _MODEL_LENGTH
    return int(float(text[:-1]) * _UNITS[text[-1]]) if text[-1] in _UNITS else int(text)


def _flag(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "yes")
