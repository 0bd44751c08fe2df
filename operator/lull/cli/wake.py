"""`lull wake NAME`: start the first replica of a sleeping model, or wake those that sleep, without request and gateway.

It leaves a time in an annotation and is done: the operator follows it, whether or not this command still runs.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Final

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, parse_llmdeployment
from lull.api.quantities import parse_duration, render_duration
from lull.api.reasons import ConditionType
from lull.api.scaling import ScalingMode, SelectPolicy
from lull.cli.cluster import Unreachable, ask, choose_namespace, complain, find_one
from lull.core.overview import build_overview
from lull.doors import clock
from lull.doors.kube import PODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import LLMDeployment, Manifest
    from lull.core.overview import PodView
    from lull.doors.kube import Kube

_EVERY: Final = 1.0


class _Asleep(Exception):  # noqa: N818  what the user reads
    """It does not wake, and why."""


def run(name: str, *, namespace: str | None, context: str | None, output: str, wait: bool, timeout: str) -> int:
    """Wake it, and with `wait` stay until it is ready; 1 with the reason where it does not wake."""
    scope = choose_namespace(namespace, everywhere=False, context=context) or "default"
    is_json = output == "json"

    async def work(kube: Kube) -> LLMDeployment:
        seen = await find_one(kube, name, scope)
        _refuse(parse_llmdeployment(seen))
        wake = clock.render_time(clock.wall())
        answer = await kube.apply(_annotate(seen, wake), manager=names.MANAGER_WAKE)
        woken = parse_llmdeployment(answer)
        if not wait:
            return woken
        return await _follow(kube, name, scope, wake, seconds=parse_duration(timeout), tell=_tell(quiet=is_json))

    try:
        parse_duration(timeout)
        deployment = ask(work, context=context)
    except (Unreachable, LookupError, InvalidSpec, ValueError, _Asleep) as error:
        return complain("wake", error)
    except KeyboardInterrupt:
        print("It goes on waking.", file=sys.stderr)
        return 130
    if is_json:
        print(json.dumps(_to_json(deployment), indent=2))
    else:
        print(_summarize(deployment, has_waited=wait))
    return 0


def _refuse(deployment: LLMDeployment) -> None:
    """Say what keeps it from being woken, where that can be seen beforehand."""
    spec, name = deployment.spec, deployment.key.name
    if deployment.deleting:
        raise _Asleep(f"{name} is being deleted")
    if spec.replicas is not None:
        raise _Asleep(
            f"spec.replicas of {name} is {spec.replicas}, so Lull does not scale it: "
            f"kubectl scale llm/{name} --replicas=1, or remove spec.replicas"
        )
    if spec.scaling.mode is ScalingMode.SHADOW:
        raise _Asleep(f"scaling.mode of {name} is Shadow, so Lull starts nothing: set it to Active")
    if spec.scaling.behavior.scale_up.select_policy is SelectPolicy.DISABLED:
        raise _Asleep(f"scaling.behavior.scaleUp of {name} is Disabled, so nothing is added: remove selectPolicy")
    if parse_duration(spec.scaling.idle_after) == 0:
        raise _Asleep(f"scaling.idleAfter of {name} is 0s, so it would fall asleep at once: set a longer one")


def _annotate(seen: Manifest, wake: str) -> Manifest:
    """Nothing but the annotation, of this very object."""
    metadata = seen["metadata"]
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "annotations": {names.ANNOTATION_WAKE: wake},
        },
    }


async def _follow(
    kube: Kube, name: str, namespace: str, wake: str, *, seconds: float, tell: Callable[[str], None]
) -> LLMDeployment:
    """Tell each stage as it comes, until a replica is ready."""
    told = ""
    try:
        async with asyncio.timeout(seconds):
            while True:
                manifest = await find_one(kube, name, namespace)
                deployment = parse_llmdeployment(manifest)
                if deployment.status.wake == wake and _count_awake(deployment):
                    return deployment
                selector = ",".join(f"{key}={value}" for key, value in names.engine_labels(name).items())
                pods = await kube.list(PODS, namespace=namespace, labels=selector)
                stage = _find_stage(deployment, wake, _view_pods(manifest, pods.items))
                if stage != told:
                    tell(stage)
                    told = stage
                await asyncio.sleep(_EVERY)
    except TimeoutError as error:
        raise _Asleep(f"{name} is not ready after {render_duration(seconds)}, and goes on waking: {told}") from error


def _view_pods(manifest: Manifest, pods: tuple[Manifest, ...]) -> tuple[PodView, ...]:
    return tuple(pod for pool in build_overview(manifest, pods, {}).pools for pod in pool.pods)


def _find_stage(deployment: LLMDeployment, wake: str, pods: tuple[PodView, ...]) -> str:
    """How far it is; _Asleep where it does not get on."""
    status = deployment.status
    stalled = status.find_condition(ConditionType.STALLED)
    if stalled is not None and stalled.status == "True":
        raise _Asleep(f"{stalled.reason}: {stalled.message}")
    if status.wake != wake:
        return "waits for the operator (`lull doctor` says whether one runs)"
    if status.desired_replicas == 0:
        scaling = status.find_condition(ConditionType.SCALING_ACTIVE)
        raise _Asleep(f"the operator starts nothing. {scaling.message if scaling is not None else ''}".rstrip())
    starting = [pod for pod in pods if pod.state not in {"Ready", "Leaving"}]
    if not starting:
        return "a replica is asked for"
    if (asleep := [pod.name for pod in starting if pod.state == "Asleep"]) == [pod.name for pod in starting]:
        return f"{', '.join(asleep)} to leave sleep mode"
    return "; ".join(f"{pod.name} {pod.message or pod.state}" for pod in starting)


def _tell(*, quiet: bool) -> Callable[[str], None]:
    began = clock.monotonic()

    def tell(stage: str) -> None:
        if not quiet:
            print(f"{render_duration(round(clock.monotonic() - began)):>6}  {stage}", flush=True)

    return tell


def _count_awake(deployment: LLMDeployment) -> int:
    return deployment.status.ready_replicas - deployment.status.asleep_replicas


def _summarize(deployment: LLMDeployment, *, has_waited: bool) -> str:
    ready, name, scaling = _count_awake(deployment), deployment.key.name, deployment.spec.scaling
    after = scaling.idle_after if scaling.sleep is None else scaling.sleep.after
    stays = f"without requests it sleeps {after} after it became ready"
    if ready:
        return f"{name} is awake, {ready} of {max(ready, deployment.status.desired_replicas)} ready; {stays}."
    return f"{name} is woken; {stays}." + ("" if has_waited else f" `lull status {name} -w` follows it.")


def _to_json(deployment: LLMDeployment) -> dict[str, object]:
    return {
        "namespace": deployment.key.namespace,
        "name": deployment.key.name,
        "wake": deployment.wake,
        "readyReplicas": deployment.status.ready_replicas,
        "asleepReplicas": deployment.status.asleep_replicas,
        "desiredReplicas": deployment.status.desired_replicas,
    }
