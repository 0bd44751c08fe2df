"""What the `restricted` pod security profile asks for, and a root file system that stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest
    from lull.api.placement import PodSecurity

CREDENTIALS_PATH: Final = "/var/run/lull/credentials"
"""Where the Secret that opens sources is mounted in what fetches: one file for each of its keys."""

_SECRET_MODE: Final = 0o440
"""Readable by the pod's group alone, as which containers run."""
_USER: Final = 2000
"""The user that vLLM's images prepare; its group must be 0."""


def build_pod_security(wanted: PodSecurity) -> Manifest:
    """The pod's security context: nobody, with the groups that the spec asks for."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER if wanted.run_as_user is None else wanted.run_as_user,
        "runAsGroup": wanted.run_as_group or 0,
        "fsGroup": wanted.fs_group or 0,
        **({"supplementalGroups": list(wanted.supplemental_groups)} if wanted.supplemental_groups else {}),
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def build_container_security() -> Manifest:
    """Each container's security context."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def build_secret(name: str) -> Manifest:
    """A Secret as the source of a volume."""
    # A pod whose Secret is missing would wait without a word; so what fetches says that the source is closed to it.
    return {"secretName": name, "defaultMode": _SECRET_MODE, "optional": True}
