"""vLLM's last error, put where Kubernetes reads why a container ended.

An engine core that cannot start logs the reason; then the API server, another process, ends with a traceback of its
own that is longer than what Kubernetes keeps of a log, and says "see root cause above". So vLLM is told to write its
errors into the container's termination message too. vLLM takes that as a file only, so the file is an annotation that
the pod sees as a volume.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from lull.api import names

if TYPE_CHECKING:
    from lull.api.engine import EngineSpec
    from lull.api.llmdeployment import Manifest

ANNOTATION: Final = f"{names.GROUP}/engine-logging"

_PATH: Final = "/etc/lull"
_FILE: Final = "logging.json"
_VOLUME: Final = "logging"
_SWITCH: Final = "VLLM_CONFIGURE_LOGGING"
_LEVEL: Final = "VLLM_LOGGING_LEVEL"


def build_logging_annotation(engine: EngineSpec) -> dict[str, str]:
    """The logging configuration: vLLM's own, and its errors in the termination message besides."""
    if not _is_configured(engine):
        return {}
    level = next((variable.value for variable in engine.env if variable.name == _LEVEL), "") or "INFO"
    configuration = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "vllm": {
                "class": "vllm.logging_utils.NewLineFormatter",
                "datefmt": "%m-%d %H:%M:%S",
                "format": "%(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s",
            },
            "last": {"format": "%(message)s"},
        },
        "handlers": {
            "vllm": {
                "class": "logging.StreamHandler",
                "formatter": "vllm",
                "level": level,
                "stream": "ext://sys.stdout",
            },
            "last": {
                "class": "logging.FileHandler",
                "formatter": "last",
                "level": "ERROR",
                "filename": "/dev/termination-log",
                "delay": True,
            },
        },
        "loggers": {"vllm": {"handlers": ["vllm", "last"], "level": level, "propagate": False}},
    }
    return {ANNOTATION: json.dumps(configuration, separators=(",", ":"))}


def build_logging_environment(engine: EngineSpec) -> list[Manifest]:
    """Environment of the engine."""
    return [{"name": "VLLM_LOGGING_CONFIG_PATH", "value": f"{_PATH}/{_FILE}"}] if _is_configured(engine) else []


def build_logging_mounts(engine: EngineSpec) -> list[Manifest]:
    """Volume mounts of the engine."""
    return [{"name": _VOLUME, "mountPath": _PATH, "readOnly": True}] if _is_configured(engine) else []


def build_logging_volumes(engine: EngineSpec) -> list[Manifest]:
    """Volumes of the pod."""
    if not _is_configured(engine):
        return []
    annotation = {"path": _FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION}']"}}
    return [{"name": _VOLUME, "downwardAPI": {"items": [annotation]}}]


def _is_configured(engine: EngineSpec) -> bool:
    """Whoever switches vLLM's logging off gets none of this: vLLM refuses a configuration then."""
    return not any(variable.name == _SWITCH for variable in engine.env)
