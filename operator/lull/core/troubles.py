"""What pods and their workloads say is wrong, as reasons with words and, where the words tell more, with advice."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.model import CacheType
from lull.api.reasons import Reason
from lull.api.timestamps import parse_timestamp
from lull.core.endings import judge_ending
from lull.core.manifests.arguments import STARTUP_SECONDS
from lull.core.manifests.pods import CONTAINER_ENGINE
from lull.core.nodes import PoolView
from lull.core.scheduling import judge_unschedulable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lull.api.llmdeployment import Manifest
    from lull.api.model import ModelSpec
    from lull.api.spec import LLMDeploymentSpec

PATIENCE_SECONDS: Final = 300.0
"""A node that an autoscaler adds takes minutes, and so may a volume; only later is a pod that waits for one stuck."""

# The most telling first: where pods differ, the one that a person must see to is named.
_PRECEDENCE: Final = (
    Reason.INCOMPATIBLE_MODEL,
    Reason.CONFIG_ERROR,
    Reason.POD_FORBIDDEN,
    Reason.QUOTA_EXCEEDED,
    Reason.SOURCE_NOT_FOUND,
    Reason.SOURCE_FORBIDDEN,
    Reason.CACHE_NOT_WRITABLE,
    Reason.DISK_FULL,
    Reason.IMAGE_PULL_FAILED,
    Reason.ENGINE_ARGUMENT_INVALID,
    Reason.ENGINE_OUT_OF_MEMORY,
    Reason.COLD_START_TIMED_OUT,
    Reason.ENGINE_CRASH_LOOP,
    Reason.FETCH_FAILED,
    Reason.VOLUME_PENDING,
    Reason.NODE_SELECTOR_MISMATCH,
    Reason.TAINT_NOT_TOLERATED,
    Reason.INSUFFICIENT_RESOURCES,
    Reason.INSUFFICIENT_ACCELERATORS,
    Reason.UNSCHEDULABLE,
    Reason.ROLLOUT_STALLED,
)
_PULL_FAILURES: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
_CONFIG_FAILURES: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError",
     "PreStartHookError", "PostStartHookError"}
)  # fmt: skip
_START_FAILURES: Final = frozenset({"StartError", "ContainerCannotRun"})
_FETCH_EXITS: Final = {
    10: Reason.SOURCE_NOT_FOUND,
    11: Reason.SOURCE_FORBIDDEN,
    12: Reason.DISK_FULL,
    13: Reason.INCOMPATIBLE_MODEL,
    14: Reason.CACHE_NOT_WRITABLE,
}
_LAST_WORDS: Final = 300
"""Characters kept of what a container said last: the end of a usage text or of a traceback is the part that tells."""
_NOISE: Final = ("usage:", "[-", "For further information visit")
"""How lines begin that tell nothing and bury the error: argparse's usage text, pydantic's pointer to itself."""
_INPUT: Final = re.compile(r" \[type=\w+, input_value=.*$")
"""What pydantic adds to each error."""
_MISSING_CLAIM: Final = re.compile(r'persistentvolumeclaim "[^"]*" not found')
_CORE: Final = "EngineCore failed to start."
_POINTER: Final = "See stack trace for root cause"
_STARTUP_SLACK: Final = 60
_RETRIES: Final = 3
"""Restarts after which an engine that ends counts as one that will go on ending."""
_MOUNT_SECONDS: Final = 60.0
"""A volume that is attached first takes its time; only later does a pod that is not set up need a word."""

# Kubernetes names the pod that it refuses or the attempt that it makes, and each is another one; the rest stays.
_NAMED_POD: Final = re.compile(r'^(?:pods|Pod) "[^"]*" is (?:forbidden|invalid): ')
_BACK_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*": \w+: ')


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a replica is not ready, in Lull's word and Kubernetes' own."""

    reason: Reason
    detail: str
    advice: str = ""
    """What to do, where more is known than the reason's remedy says."""
    since: float | None = None
    """When it began, for what may pass by waiting."""
    is_retried: bool = False
    """It happened once or twice, and the next try is on its way."""


@dataclass(frozen=True, slots=True)
class Case:
    """What explains pods besides themselves, where it is known."""

    spec: LLMDeploymentSpec | None = None
    pools: Mapping[str, PoolView] = field(default_factory=dict)
    claims: tuple[Manifest, ...] = ()
    """PersistentVolumeClaims that were made for the weights."""
    now: float = 0.0
    """0 takes no wait for a long one."""

    def view_pool(self, pod: Manifest) -> PoolView:
        name = (pod["metadata"].get("labels") or {}).get(names.LABEL_POOL, "")
        return self.pools.get(name, PoolView(name))


_NO_CASE: Final = Case()


def find_trouble(
    workloads: tuple[Manifest, ...], pods: tuple[Manifest, ...], case: Case = _NO_CASE
) -> tuple[Trouble, int] | None:
    """The most telling trouble among `pods`, those that should be ready and are not, and how many have it."""
    troubles = [
        *(trouble for workload in workloads for trouble in _workload_troubles(workload)),
        *(trouble for pod in pods if (trouble := next(_pod_troubles(pod, case), None)) is not None),
    ]
    if not troubles:
        return None
    # By their words too, so that the order in which pods are listed does not matter.
    first = min(troubles, key=lambda trouble: (_PRECEDENCE.index(trouble.reason), trouble.is_retried, trouble.detail))
    return first, sum(trouble.reason is first.reason for trouble in troubles)


def find_due(pods: tuple[Manifest, ...], now: float) -> float | None:
    """Seconds until time alone makes a trouble, or makes one lasting: nothing else would tell."""
    dues = [at - now for pod in pods for at in _due_times(pod) if at > now]
    return min(dues, default=None)


def unscheduled_since(pod: Manifest) -> float | None:
    """When the scheduler first found no node for a pod; None where it has one."""
    refused = _find_unscheduled(pod)
    return _began(refused) if refused is not None else None


def _due_times(pod: Manifest) -> Iterator[float]:
    if (since := unscheduled_since(pod)) is not None:
        yield since + PATIENCE_SECONDS
    if (since := _waits_for_set_up(pod)) is not None:
        yield since + _MOUNT_SECONDS
        yield since + PATIENCE_SECONDS


def _workload_troubles(workload: Manifest) -> Iterator[Trouble]:
    status = workload.get("status") or {}
    # What it says of an earlier spec may be mended already.
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return
    for condition in status.get("conditions") or ():
        message = condition.get("message", "")
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            yield _judge_refusal(_NAMED_POD.sub("", message))
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            yield Trouble(Reason.ROLLOUT_STALLED, "its new pods do not become ready")


def _judge_refusal(message: str) -> Trouble:
    """Why Kubernetes creates no pod."""
    for pattern, reason, advice in _REFUSALS:
        if re.search(pattern, message, re.IGNORECASE):
            return Trouble(reason, message, advice)
    return Trouble(Reason.POD_FORBIDDEN, message)


_REFUSALS: Final = (
    (r"exceeded quota", Reason.QUOTA_EXCEEDED, ""),
    (
        r"failed quota.*must specify",
        Reason.QUOTA_EXCEEDED,
        "Set spec.resources.cpu and spec.resources.memory, which the ResourceQuota counts.",
    ),
    (
        r"service ?account",
        Reason.CONFIG_ERROR,
        "Create the ServiceAccount, or change spec.podTemplate.serviceAccountName.",
    ),
    (
        r"priorityclass",
        Reason.CONFIG_ERROR,
        "Create the PriorityClass, or change spec.podTemplate.priorityClassName.",
    ),
    (
        r"runtimeclass",
        Reason.CONFIG_ERROR,
        "Create the RuntimeClass, or change spec.podTemplate.runtimeClassName.",
    ),
    (
        r"(?:maximum|minimum) \S+ (?:usage|limit)|limit to request ratio|must be less than or equal to",
        Reason.POD_FORBIDDEN,
        "Fit spec.resources to the LimitRange of the namespace, or change that.",
    ),
    (
        r"PodSecurity.*hostPath",
        Reason.POD_FORBIDDEN,
        "Use another spec.model.cache.type than HostPath, or a namespace whose pod security allows it.",
    ),
)


def _pod_troubles(pod: Manifest, case: Case) -> Iterator[Trouble]:
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        yield from _failed_troubles(status, case)
        return
    refused = _find_unscheduled(pod)
    if refused is not None:
        yield _judge_unscheduled(refused, case, pod)
    began = _waits_for_set_up(pod)
    if began is not None and case.now - began >= _MOUNT_SECONDS:
        yield _judge_set_up(case, began)
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if not container.get("ready"):
            yield from _container_troubles(container, case)


def _failed_troubles(status: Manifest, case: Case) -> Iterator[Trouble]:
    """Why the node put a pod out, or did not take it; another pod comes in its place and may fare the same."""
    reason, message = status.get("reason", ""), (status.get("message") or "").strip()
    if reason == "Evicted":
        if "EmptyDir" in message or "ephemeral" in message:
            yield Trouble(Reason.DISK_FULL, f"evicted: {message}", _advise_disk(case.spec))
        elif "memory" in message:
            yield Trouble(Reason.ENGINE_OUT_OF_MEMORY, f"evicted: {message}", "Set spec.resources.memory.")
        else:
            yield Trouble(Reason.UNSCHEDULABLE, f"evicted: {message}")
    elif reason == "UnexpectedAdmissionError" or reason.startswith("OutOf"):
        kind = Reason.INSUFFICIENT_ACCELERATORS if "/" in message else Reason.INSUFFICIENT_RESOURCES
        yield Trouble(kind, f"refused by the node: {message}")


def _find_unscheduled(pod: Manifest) -> Manifest | None:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False" and condition.get("reason"):
            return dict(condition)
    return None


def _judge_unscheduled(condition: Manifest, case: Case, pod: Manifest) -> Trouble:
    reason, detail = judge_unschedulable(condition.get("message", ""), case.view_pool(pod))
    if reason is Reason.VOLUME_PENDING:
        return _judge_volume(detail, case, since=_began(condition))
    return Trouble(reason, detail, since=_began(condition))


def _judge_volume(said: str, case: Case, *, since: float | None) -> Trouble:
    """The scheduler names a claim that is missing, and not one that waits."""
    model = case.spec.model if case.spec is not None else None
    is_source = model is not None and model.source.startswith("pvc://")
    if _MISSING_CLAIM.search(said):
        field = "spec.model.source" if is_source else "spec.model.cache.claimName"
        advice = f"Create the PersistentVolumeClaim in this namespace, or change {field}."
        return Trouble(Reason.VOLUME_PENDING, said, advice, since=since)
    for claim in case.claims:
        if (claim.get("status") or {}).get("phase", "Pending") == "Pending":
            name, storage = claim["metadata"]["name"], claim["spec"].get("storageClassName")
            said = f'{said}: PersistentVolumeClaim "{name}" is not bound'
            if not storage:
                advice = "The cluster has no default StorageClass: name one in spec.model.cache.storageClassName."
                return Trouble(Reason.VOLUME_PENDING, said, advice, since=since)
            return Trouble(Reason.VOLUME_PENDING, f'{said} by StorageClass "{storage}"', since=since)
    if model is not None:
        claim_name = model.source.removeprefix("pvc://").partition("/")[0] if is_source else model.cache.claim_name
        if claim_name is not None:
            said = f'{said}: PersistentVolumeClaim "{claim_name}" is not bound'
    return Trouble(Reason.VOLUME_PENDING, said, since=since)


def _waits_for_set_up(pod: Manifest) -> float | None:
    """Since when a pod has had a node that cannot mount its volumes, or give it a network."""
    found = {condition["type"]: condition for condition in (pod.get("status") or {}).get("conditions") or ()}
    scheduled, set_up = found.get("PodScheduled", {}), found.get("PodReadyToStartContainers", {})
    if scheduled.get("status") != "True" or set_up.get("status") != "False":
        return None
    statuses = pod["status"]
    containers = (*(statuses.get("initContainerStatuses") or ()), *(statuses.get("containerStatuses") or ()))
    is_new = all("waiting" in (each.get("state") or {}) and not each.get("lastState") for each in containers)
    return _began(scheduled) if is_new else None


def _judge_set_up(case: Case, began: float) -> Trouble:
    if case.spec is not None and _has_claim(case.spec):
        detail = "the node cannot mount the volume of the weights: it is attached elsewhere, or its driver fails"
        return Trouble(Reason.VOLUME_PENDING, detail, since=began)
    detail = "the node cannot set the pod up: its volumes or its network fail"
    return Trouble(Reason.CONFIG_ERROR, detail, "The pod's Events say more: kubectl describe pod.", since=began)


def _has_claim(spec: LLMDeploymentSpec) -> bool:
    return spec.model.source.startswith("pvc://") or spec.model.cache.type is CacheType.CLAIM


def _container_troubles(container: Manifest, case: Case) -> Iterator[Trouble]:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    word, message = waiting.get("reason", ""), waiting.get("message", "")
    if word in _PULL_FAILURES:
        yield _judge_pull(container, word, message)
    if word in _CONFIG_FAILURES:
        yield Trouble(Reason.CONFIG_ERROR, message or word, _advise_start(message))
    # A container that runs again says nothing yet; what ended its last run is the news until it is ready.
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if not ended:
        return
    if ended.get("reason") in _START_FAILURES:
        words = _join_last_words(ended.get("message", ""))
        yield Trouble(Reason.CONFIG_ERROR, words, _advise_start(words))
    elif container["name"] == CONTAINER_ENGINE:
        yield _judge_engine_end(container, ended, is_waiting=word == "CrashLoopBackOff")
    elif ended.get("exitCode", 0) != 0:
        yield _judge_fetch_end(ended, case.spec)


def _judge_pull(container: Manifest, word: str, message: str) -> Trouble:
    """A kubelet says the cause at once, then the same after "Back-off"; one text for both."""
    said = _BACK_OFF.sub("", message)
    text = said.lower()
    detail = f"{container.get('image', '')}: {said or word}"
    if container["name"] != CONTAINER_ENGINE:
        return Trouble(
            Reason.IMAGE_PULL_FAILED, detail, "Check Lull's own image: image.repository and image.tag of the chart."
        )
    if word == "InvalidImageName":
        advice = "Write spec.engine.image as registry/repository:tag."
    elif any(sign in text for sign in ("unauthorized", "401", "403", "forbidden", "denied", "authorization failed")):
        advice = (
            "Name a Secret that opens the registry in spec.podTemplate.imagePullSecrets, or check spec.engine.image."
        )
    elif any(sign in text for sign in ("not found", "manifest unknown", "not present")):
        advice = "There is no such image: check the name and the tag in spec.engine.image."
    else:
        advice = ""
    return Trouble(Reason.IMAGE_PULL_FAILED, detail, advice)


def _advise_start(message: str) -> str:
    if "executable file not found" in message or "no such file" in message:
        return "Use an image in spec.engine.image whose entry point is `vllm serve`."
    return ""


def _judge_fetch_end(ended: Manifest, spec: LLMDeploymentSpec | None) -> Trouble:
    # The fetcher ends with one sentence; before it are lines of its log.
    sentence = _join_last_words((ended.get("message") or "").strip().rpartition("\n")[2])
    code = ended.get("exitCode", 0)
    if ended.get("reason") == "OOMKilled":
        sentence = "killed for using more memory than the node has left"
    reason = _FETCH_EXITS.get(code, Reason.FETCH_FAILED)
    return Trouble(reason, sentence or f"exit code {code}", _advise_fetch(reason, spec))


def _advise_fetch(reason: Reason, spec: LLMDeploymentSpec | None) -> str:
    match reason:
        case _ if spec is None:
            return ""
        case Reason.SOURCE_FORBIDDEN:
            return _advise_credentials(spec.model)
        case Reason.DISK_FULL:
            return _advise_disk(spec)
        case Reason.CACHE_NOT_WRITABLE if spec.model.cache.type is CacheType.HOST_PATH:
            return "Make the folder of spec.model.cache.path writable for group 0 on every node."
        case _:
            return ""


_KEYS: Final = {
    "hf": "key `token`",
    "s3": "keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "key service-account.json",
    "oci": "key .dockerconfigjson",
}


def _advise_credentials(model: ModelSpec) -> str:
    scheme = model.source.partition("://")[0]
    licence = ", and accept its licence on the hub" if scheme == "hf" else ""
    if model.secret_name is None:
        return f"Set spec.model.secretName to a Secret whose {_KEYS[scheme]} may read the model{licence}."
    secret = f'Secret "{model.secret_name}" (spec.model.secretName)'
    return f"See that {secret} exists, and that its {_KEYS[scheme]} may read the model{licence}."


def _advise_disk(spec: LLMDeploymentSpec | None) -> str:
    if spec is None:
        return ""
    cache = spec.model.cache
    match cache.type:
        case CacheType.CLAIM if cache.claim_name is not None:
            return f'Enlarge PersistentVolumeClaim "{cache.claim_name}", or name another in spec.model.cache.claimName.'
        case CacheType.CLAIM:
            return "Raise spec.model.cache.size; the claim grows where its StorageClass allows it."
        case CacheType.HOST_PATH:
            return "Free space on the node, or choose a folder on a larger disk in spec.model.cache.path."
        case CacheType.EPHEMERAL if cache.size is not None:
            return "Raise spec.model.cache.size."
        case CacheType.EPHEMERAL:
            return ""


def _judge_engine_end(container: Manifest, ended: Manifest, *, is_waiting: bool) -> Trouble:
    restarts = container.get("restartCount", 0)
    message = _find_root(ended.get("message") or "")
    last_words = _join_last_words(message)
    if ended.get("reason") == "OOMKilled":
        detail = f"killed for using more memory than it may{_said(last_words)}"
        return Trouble(Reason.ENGINE_OUT_OF_MEMORY, detail, "Raise spec.resources.memory.")
    ending = judge_ending(message)
    if ending is not None:
        telling = _join_last_words(ending.words)
        return Trouble(ending.reason, last_words if telling in last_words else telling, ending.advice)
    if not container.get("started") and _ran(ended) >= STARTUP_SECONDS - _STARTUP_SLACK:
        return Trouble(Reason.COLD_START_TIMED_OUT, f"not healthy within {STARTUP_SECONDS // 60} minutes of its start")
    # vLLM leaves with code 0 when its engine core dies, so the code proves nothing and any end counts.
    stopped = "once" if restarts <= 1 else f"{restarts} times"
    detail = f"stopped {stopped}, last with exit code {ended.get('exitCode', 0)}{_said(last_words)}"
    return Trouble(Reason.ENGINE_CRASH_LOOP, detail, is_retried=not is_waiting and restarts < _RETRIES)


def _find_root(message: str) -> str:
    """What came before, where the last error only points at it: a worker's own error comes before the engine core's."""
    first, found, last = message.rpartition(_CORE)
    return first if found and _POINTER in last else message


def _began(condition: Manifest) -> float | None:
    at = condition.get("lastTransitionTime")
    return parse_timestamp(at) if at else None


def _ran(ended: Manifest) -> float:
    started, finished = ended.get("startedAt"), ended.get("finishedAt")
    return parse_timestamp(finished) - parse_timestamp(started) if started and finished else 0.0


def _said(words: str) -> str:
    return f": {words}" if words else ""


def _join_last_words(message: str) -> str:
    """The last lines that fit, as one line; of a last line that is too long, its beginning."""
    lines = [
        _INPUT.sub("", line)
        for raw in message.splitlines()
        if (line := " ".join(raw.split())) and not line.startswith(_NOISE)
    ]
    kept, length = 0, 0
    while kept < len(lines) and length + len(lines[-kept - 1]) <= _LAST_WORDS:
        kept += 1
        length += len(lines[-kept]) + 1
    if kept == len(lines):
        return " ".join(lines)
    return f"… {' '.join(lines[-kept:])}" if kept else f"{lines[-1][:_LAST_WORDS]}…"
