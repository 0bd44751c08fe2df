"""The words are those of kube-scheduler 1.30 to 1.34."""

from __future__ import annotations

import pytest

from lull.api.reasons import Reason
from lull.core.nodes import Misfit, PoolView
from lull.core.scheduling import judge_unschedulable

UNSEEN = PoolView("default")
NO_HELP = " preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
SELECTOR = "node(s) didn't match Pod's node affinity/selector"
CONTROL_PLANE = "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (f"0/3 nodes are available: 3 Insufficient nvidia.com/gpu.{NO_HELP}", Reason.INSUFFICIENT_ACCELERATORS),
        (f"0/3 nodes are available: {CONTROL_PLANE}, 2 Insufficient amd.com/gpu.", Reason.INSUFFICIENT_ACCELERATORS),
        (
            "0/3 nodes are available: 3 Insufficient cpu, 3 Insufficient nvidia.com/gpu.",
            Reason.INSUFFICIENT_ACCELERATORS,
        ),
        # The node with free accelerators lacks CPU: that is what keeps the pod out.
        ("0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient nvidia.com/gpu.", Reason.INSUFFICIENT_RESOURCES),
        (f"0/3 nodes are available: 1 Insufficient cpu, 2 {SELECTOR}.", Reason.INSUFFICIENT_RESOURCES),
        (f"0/3 nodes are available: 2 Insufficient memory, {CONTROL_PLANE}.", Reason.INSUFFICIENT_RESOURCES),
        ("0/1 nodes are available: 1 Insufficient ephemeral-storage.", Reason.INSUFFICIENT_RESOURCES),
        (f"0/3 nodes are available: 3 {SELECTOR}.", Reason.NODE_SELECTOR_MISMATCH),
        (f"0/3 nodes are available: {CONTROL_PLANE}, 2 {SELECTOR}.", Reason.NODE_SELECTOR_MISMATCH),
        (
            f"0/3 nodes are available: 1 node(s) had untolerated taint {{dedicated: ml}}, 2 {SELECTOR}.",
            Reason.TAINT_NOT_TOLERATED,
        ),
        ("0/3 nodes are available: 3 node(s) had untolerated taint(s).", Reason.TAINT_NOT_TOLERATED),
        (
            "0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.",
            Reason.UNSCHEDULABLE,
        ),
        ("0/2 nodes are available: 2 node(s) were unschedulable.", Reason.UNSCHEDULABLE),
        ("0/2 nodes are available: 2 node(s) didn't match pod topology spread constraints.", Reason.UNSCHEDULABLE),
        ("0/2 nodes are available: 2 Too many pods.", Reason.UNSCHEDULABLE),
        ("no nodes available to schedule pods", Reason.UNSCHEDULABLE),
        ("", Reason.UNSCHEDULABLE),
        (
            (
                "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/3 nodes are "
                "available: 3 Preemption is not helpful for scheduling."
            ),
            Reason.VOLUME_PENDING,
        ),
        ('0/3 nodes are available: persistentvolumeclaim "weights" not found.', Reason.VOLUME_PENDING),
        ("0/3 nodes are available: 3 node(s) had volume node affinity conflict.", Reason.VOLUME_PENDING),
        ("0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind.", Reason.VOLUME_PENDING),
    ],
)
def test_names_what_remains_once_the_rest_is_solved(message: str, reason: Reason) -> None:
    assert judge_unschedulable(message, UNSEEN)[0] is reason


def test_keeps_the_schedulers_words_without_those_about_preemption() -> None:
    _, said = judge_unschedulable(f"0/3 nodes are available: 3 Insufficient nvidia.com/gpu.{NO_HELP}", UNSEEN)

    assert said == "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"


def test_names_the_taint_where_the_scheduler_does_not() -> None:
    pool = PoolView("default", is_seen=True, taints=("dedicated=ml:NoSchedule",))

    reason, said = judge_unschedulable("0/3 nodes are available: 3 node(s) had untolerated taint(s).", pool)

    assert reason is Reason.TAINT_NOT_TOLERATED
    assert said.endswith("(dedicated=ml:NoSchedule)")


def test_nodes_that_are_not_ready_are_no_taint_to_tolerate() -> None:
    pool = PoolView("default", is_seen=True, taints=("node.kubernetes.io/not-ready:NoExecute",))

    assert judge_unschedulable("0/3 nodes are available: 3 node(s) had untolerated taint(s).", pool)[0] is (
        Reason.UNSCHEDULABLE
    )


def test_what_no_node_could_ever_give_comes_before_what_each_lacks_first() -> None:
    pool = PoolView("default", is_seen=True, misfit=Misfit(Reason.TAINT_NOT_TOLERATED, "…"), taints=("a=b:NoSchedule",))

    reason, said = judge_unschedulable(
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient nvidia.com/gpu.", pool
    )

    assert reason is Reason.TAINT_NOT_TOLERATED
    assert "a=b:NoSchedule" in said


def test_says_which_labels_the_pool_wants() -> None:
    pool = PoolView("l4", wishes="product NVIDIA-L4")

    assert judge_unschedulable(f"0/1 nodes are available: 1 {SELECTOR}.", pool)[1].endswith(
        "pool l4 wants product NVIDIA-L4"
    )
