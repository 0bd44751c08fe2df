"""What the scheduler says of a pod that finds no node, as a reason with words.

A message counts nodes by what each of them lacks: "0/3 nodes are available: 1 node(s) had untolerated taint(s),
2 Insufficient nvidia.com/gpu. preemption: …". Nodes are asked in a fixed order (taints, labels, resources, volumes,
spreading) and each names only the first thing that it lacks, except that it names all resources. So what comes last in
that order is the cause that remains once a node lets the pod in, and the one to name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from lull.api.reasons import Reason

if TYPE_CHECKING:
    from lull.core.nodes import PoolView

_TOTAL: Final = re.compile(r"^0/(\d+) nodes are available: ")
_PREEMPTION: Final = re.compile(r"\.?\s+(?:no new claims to deallocate, )?preemption: .*$", re.DOTALL)
_COUNTED: Final = re.compile(r"(?:^|, )(\d+) (.+?)(?=, \d+ |$)", re.DOTALL)
_NAMED_TAINT: Final = re.compile(r"untolerated taint \{(?P<key>[^:}]+): ?(?P<value>[^}]*)\}")
_INSUFFICIENT: Final = re.compile(r"Insufficient (\S+)")
_VOLUMES: Final = re.compile(r"persistentvolume|volume|storage class|storageclass|free storage|pvc\(s\)", re.IGNORECASE)
_PASSING_TAINTS: Final = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
_KEEPS_OUT: Final = ("node-role.kubernetes.io/", *_PASSING_TAINTS)
"""Taints of nodes that are not meant for a replica, now or ever: they hide what else is wrong."""


def judge_unschedulable(message: str, pool: PoolView) -> tuple[Reason, str]:
    """Why no node takes a pod, and the scheduler's own words with what they leave out."""
    total = _TOTAL.match(message)
    said = _PREEMPTION.sub("", message).rstrip(". ")
    counts = {text: int(count) for count, text in _COUNTED.findall(_TOTAL.sub("", said))} if total else {}
    reason = _judge(said, counts, nodes=int(total[1]) if total else 0, pool=pool)
    match reason:
        case Reason.TAINT_NOT_TOLERATED if not _NAMED_TAINT.search(said) and pool.taints:
            said = f"{said} ({', '.join(pool.taints)})"
        case Reason.NODE_SELECTOR_MISMATCH if pool.wishes:
            said = f"{said}; pool {pool.name} wants {pool.wishes}"
        case _:
            pass
    return reason, said


def _judge(said: str, counts: dict[str, int], *, nodes: int, pool: PoolView) -> Reason:
    lacking = {text: count for text, count in counts.items() if _INSUFFICIENT.match(text)}
    if _VOLUMES.search(_INSUFFICIENT.sub("", said)):
        return Reason.VOLUME_PENDING
    # What no node could ever give is sure, where nodes can be seen; a message only tells what each lacks first.
    if pool.misfit is not None:
        return pool.misfit.reason
    if lacking:
        return _judge_resources(counts, lacking, nodes)
    taints = [text for text in counts if "untolerated taint" in text]
    selectors = [text for text in counts if "node affinity/selector" in text]
    if any(_is_meant(taint, pool) for taint in taints):
        return Reason.TAINT_NOT_TOLERATED
    if selectors:
        return Reason.NODE_SELECTOR_MISMATCH
    return Reason.UNSCHEDULABLE


def _judge_resources(counts: dict[str, int], lacking: dict[str, int], nodes: int) -> Reason:
    """Accelerators, unless some node has them free and lacks another resource."""
    accelerators = max((count for text, count in lacking.items() if "/" in text), default=0)
    others = max((count for text, count in lacking.items() if "/" not in text), default=0)
    # Each node that lacks no resource names exactly one other thing.
    asked = nodes - sum(count for text, count in counts.items() if text not in lacking)
    if accelerators and (accelerators >= asked or not others):
        return Reason.INSUFFICIENT_ACCELERATORS
    return Reason.INSUFFICIENT_RESOURCES


def _is_meant(taint: str, pool: PoolView) -> bool:
    """Whether somebody put the taint there for those who tolerate it; newer schedulers do not name it."""
    named = _NAMED_TAINT.search(taint)
    if named is not None:
        return not named["key"].startswith(_KEEPS_OUT)
    return any(not each.startswith(_KEEPS_OUT) for each in pool.taints) if pool.is_seen else True
