"""What pods and Deployments say is wrong, as reasons with words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lull.api.reasons import Reason
from lull.api.timestamps import parse_timestamp
from lull.core.manifests.arguments import STARTUP_SECONDS
from lull.core.manifests.pods import CONTAINER_FETCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lull.api.llmdeployment import Manifest

# The most telling first: where pods differ, the one that a person must see to is named.
_PRECEDENCE: Final = (
    Reason.CONFIG_ERROR,
    Reason.QUOTA_EXCEEDED,
    Reason.SOURCE_NOT_FOUND,
    Reason.SOURCE_FORBIDDEN,
    Reason.DISK_FULL,
    Reason.IMAGE_PULL_FAILED,
    Reason.ENGINE_OUT_OF_MEMORY,
    Reason.COLD_START_TIMED_OUT,
    Reason.ENGINE_CRASH_LOOP,
    Reason.FETCH_FAILED,
    Reason.UNSCHEDULABLE,
)
_PULL_FAILURES: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
_CONFIG_FAILURES: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError",
     "PreStartHookError", "PostStartHookError"}
)  # fmt: skip
_FETCH_EXITS: Final = {10: Reason.SOURCE_NOT_FOUND, 11: Reason.SOURCE_FORBIDDEN, 12: Reason.DISK_FULL}
_LAST_WORDS: Final = 300
"""Characters kept of what a container said last: the end of a usage text or of a traceback is the part that tells."""
_USAGE: Final = ("usage:", "[-")
"""How lines of argparse's usage text begin; they bury the error that follows them."""
_LOOKED_THROUGH: Final = 600
"""Characters from the end in which an engine is believed to name its own end; before them may be a help text."""
_STARTUP_SLACK: Final = 60
_RETRIES: Final = 3
"""Restarts after which an engine that ends counts as one that will go on ending."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a replica is not ready, in Lull's word and Kubernetes' own."""

    reason: Reason
    detail: str
    since: float | None = None
    """When it began, where the pod says so."""
    is_retried: bool = False
    """It happened once or twice, and the next try is on its way."""


def find_trouble(workloads: tuple[Manifest, ...], pods: tuple[Manifest, ...]) -> tuple[Trouble, int] | None:
    """The most telling trouble among replicas that are not ready, and how many have it."""
    troubles = [
        *(trouble for workload in workloads for trouble in _workload_troubles(workload)),
        *(trouble for pod in pods if (trouble := next(_pod_troubles(pod), None)) is not None),
    ]
    if not troubles:
        return None
    first = min(troubles, key=lambda trouble: _PRECEDENCE.index(trouble.reason))
    return first, sum(trouble.reason is first.reason for trouble in troubles)


def _workload_troubles(workload: Manifest) -> Iterator[Trouble]:
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            message = condition.get("message", "")
            yield Trouble(Reason.QUOTA_EXCEEDED if "quota" in message else Reason.CONFIG_ERROR, message)


def _pod_troubles(pod: Manifest) -> Iterator[Trouble]:
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            began = condition.get("lastTransitionTime")
            since = parse_timestamp(began) if began else None
            yield Trouble(Reason.UNSCHEDULABLE, condition.get("message", ""), since)
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if not container.get("ready"):
            yield from _container_troubles(container)


def _container_troubles(container: Manifest) -> Iterator[Trouble]:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    word, message = waiting.get("reason", ""), waiting.get("message", "")
    if word in _PULL_FAILURES:
        yield Trouble(Reason.IMAGE_PULL_FAILED, f"{container.get('image', '')}: {message or word}")
    if word in _CONFIG_FAILURES:
        yield Trouble(Reason.CONFIG_ERROR, message or word)
    # A container that runs again says nothing yet; what ended its last run is the news until it is ready.
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if not ended:
        return
    restarts = container.get("restartCount", 0)
    is_retried = word != "CrashLoopBackOff" and restarts < _RETRIES
    code, message = ended.get("exitCode", 0), ended.get("message", "")
    if container["name"] == CONTAINER_FETCH:
        if code != 0:
            # The fetcher ends with one sentence; before it are lines of its log.
            sentence = _join_last_words(message.strip().rpartition("\n")[2])
            yield Trouble(_FETCH_EXITS.get(code, Reason.FETCH_FAILED), sentence or f"exit code {code}")
        return
    last_words = _join_last_words(message)
    if ended.get("reason") == "OOMKilled":
        yield Trouble(Reason.ENGINE_OUT_OF_MEMORY, f"killed for using more memory than it may{_said(last_words)}")
    elif "out of memory" in message.strip()[-_LOOKED_THROUGH:].lower():
        yield Trouble(Reason.ENGINE_OUT_OF_MEMORY, last_words)
    elif not container.get("started") and _ran(ended) >= STARTUP_SECONDS - _STARTUP_SLACK:
        yield Trouble(Reason.COLD_START_TIMED_OUT, f"not healthy within {STARTUP_SECONDS // 60} minutes of its start")
    else:
        # vLLM leaves with code 0 when its engine core dies, so the code proves nothing and any end counts.
        stopped = "once" if restarts <= 1 else f"{restarts} times"
        detail = f"stopped {stopped}, last with exit code {code}{_said(last_words)}"
        yield Trouble(Reason.ENGINE_CRASH_LOOP, detail, is_retried=is_retried)


def _ran(ended: Manifest) -> float:
    started, finished = ended.get("startedAt"), ended.get("finishedAt")
    return parse_timestamp(finished) - parse_timestamp(started) if started and finished else 0.0


def _said(words: str) -> str:
    return f": {words}" if words else ""


def _join_last_words(message: str) -> str:
    """The last lines that fit, as one line; of a last line that is too long, its beginning."""
    lines = [line for raw in message.splitlines() if (line := " ".join(raw.split())) and not line.startswith(_USAGE)]
    kept, length = 0, 0
    while kept < len(lines) and length + len(lines[-kept - 1]) <= _LAST_WORDS:
        kept += 1
        length += len(lines[-kept]) + 1
    if kept == len(lines):
        return " ".join(lines)
    return f"… {' '.join(lines[-kept:])}" if kept else f"{lines[-1][:_LAST_WORDS]}…"
