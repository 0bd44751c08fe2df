"""The two acts. Each step either happens, or the demo fails and says which did not."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from e2e.lab import BIG_NODE, Lab, sim_deployment
from lull.api import names
from lull.api.timestamps import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.demo.recorder import Recorder
    from e2e.demo.screen import Screen
    from lull.api.llmdeployment import Manifest

NAMESPACE: Final = "demo"
HUB: Final = f"http://hub.{NAMESPACE}.svc.cluster.local:8080"
REAL: Final = "tiny"
SIM: Final = "sim"
_HUB_COMMAND: Final = ("python3", "/opt/lull/hub.py", "--port", "8080", "--repo", "lull/tiny")


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of an act that is worth a mark in the picture and a line in the timeline."""

    at: float
    words: str


@dataclass(slots=True)
class Act:
    """What an act leaves behind for the end of the demo."""

    title: str
    model: str
    moments: list[Moment] = field(default_factory=list)
    stages: list[Moment] = field(default_factory=list)
    requests: int = 0

    def mark(self, words: str) -> None:
        """Remember this moment."""
        self.moments.append(Moment(time.time(), words))


def hub(image: str, command: Sequence[str] = _HUB_COMMAND) -> list[Manifest]:
    """A model hub in the cluster that makes a tiny model on the spot and serves it as Hugging Face's hub would."""
    labels = {names.LABEL_APP: "hub"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "hub", "labels": labels},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": BIG_NODE},
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 2000,
                    "runAsGroup": 0,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "hub",
                        "image": image,
                        "command": list(command),
                        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 60},
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "hub"},
            "spec": {"selector": labels, "ports": [{"port": 8080}]},
        },
    ]


def real_deployment(image: str, name: str = REAL) -> Manifest:
    """The LLMDeployment of the first act: a tiny model on real vLLM, on CPU."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "hf://lull/tiny"},
            "engine": {"image": image, "maxModelLen": 2048, "maxNumSeqs": 2, "enforceEager": True},
            "accelerator": {"vendor": "Cpu"},
            "placement": {"pools": [{"name": "cpu", "nodeSelector": {"kubernetes.io/hostname": BIG_NODE}}]},
            "scaling": {
                "minReplicas": 0,
                "maxReplicas": 2,
                "target": {"inFlight": 2},
                "idleAfter": "20s",
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}},
            },
            "rollout": {"drain": "20s"},
        },
    }


async def act_one(lab: Lab, recorder: Recorder, screen: Screen) -> Act:
    """Real vLLM: one request wakes a model that nothing runs for; load makes it two; quiet makes it none."""
    act = Act("Act 1: real vLLM on CPU wakes, scales to 2 and sleeps", REAL)
    await lab.apply(real_deployment(lab.installation.images["engine-cpu"]))
    await _asleep(lab, screen, REAL)
    with screen.doing("a stock OpenAI client asks the sleeping model for a story; the request is held"):
        act.mark("request")
        asked = time.time()
        first_token = 0.0
        text = ""
        stream = await lab.client.chat.completions.create(
            model=REAL,
            messages=[{"role": "user", "content": "Tell me a story about a robot."}],
            max_tokens=48,
            stream=True,
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                first_token = first_token or time.time()
                text += chunk.choices[0].delta.content
                screen.answer(text)
        _require(first_token, "the held request was answered with tokens")
    screen.answer("")
    act.requests += 1
    act.mark("answer")
    act.stages = await _stages(lab, recorder, asked, first_token)
    await _load(lab, recorder, screen, act, clients=5, tokens=64, replicas=2, within=420)
    await _back_to_sleep(lab, recorder, screen, act, within=180)
    return act


async def act_two(lab: Lab, recorder: Recorder, screen: Screen) -> Act:
    """engine-sim: the same with six replicas, at a pace that two cores can follow."""
    act = Act("Act 2: engine-sim under load, 0 → 6 → 1 → 0", SIM)
    await lab.apply(
        sim_deployment(
            lab.installation,
            SIM,
            sim={"startup": 4, "decode_tps": 20},
            engine={"maxNumSeqs": 8},
            scaling={"maxReplicas": 6, "target": {"inFlight": 6}, "idleAfter": "15s"},
        )
    )
    await _asleep(lab, screen, SIM)
    act.mark("load begins")
    await _load(lab, recorder, screen, act, clients=36, tokens=40, replicas=6, within=120)
    await _back_to_sleep(lab, recorder, screen, act, within=120)
    return act


async def _asleep(lab: Lab, screen: Screen, name: str) -> None:
    with screen.doing(f"kubectl apply: {name} is Ready with nothing running for it"):
        await lab.until_condition(name, "Ready", "True", "ScaledToZero", within=60)
        _require(not await lab.pods(name), "no pod runs while the model sleeps")


async def _load(
    lab: Lab, recorder: Recorder, screen: Screen, act: Act, *, clients: int, tokens: int, replicas: int, within: float
) -> None:
    """A bounded load until so many replicas are ready and have answered, every request of it successful."""
    stop = asyncio.Event()

    async def client() -> int:
        answered = 0
        while not stop.is_set():
            answer = await lab.client.chat.completions.create(
                model=act.model,
                messages=[{"role": "user", "content": "Say something."}],
                max_tokens=tokens,
                extra_body={"ignore_eos": True},
            )
            _require(answer.usage and answer.usage.completion_tokens == tokens, "each answer is whole")
            answered += 1
        return answered

    with screen.doing(f"{clients} clients at a time until {replicas} replicas are ready"):
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(client()) for _ in range(clients)]
            try:
                await _ready(recorder, act.model, replicas, within)
                act.mark(f"{replicas} ready")
                await asyncio.sleep(8)
            finally:
                stop.set()
    answered = sum(task.result() for task in running)
    act.requests += answered
    act.mark("load ends")
    screen.said(f"{answered} requests answered, none lost")


async def _ready(recorder: Recorder, name: str, count: int, within: float) -> None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if recorder.replicas(name)[1] >= count:
            return
        await asyncio.sleep(0.2)
    _require(None, f"{name} reached {count} ready replicas within {within:.0f} s")


async def _back_to_sleep(lab: Lab, recorder: Recorder, screen: Screen, act: Act, *, within: float) -> None:
    with screen.doing("the load is over: back to one replica"):
        await lab.until_replicas(act.model, 1, within=within)
        act.mark("1 replica")
    with screen.doing("nobody asks: back to zero"):
        await lab.until_condition(act.model, "Ready", "True", "ScaledToZero", within=within)
        await lab.until("no pod left", lambda: _none(lab, act.model), within=90)
        act.mark("asleep")
    await asyncio.sleep(1)
    _require(recorder.replicas(act.model) == (0, 0), "no replica is left")


async def _none(lab: Lab, name: str) -> bool:
    return not await lab.pods(name)


async def _stages(lab: Lab, recorder: Recorder, asked: float, first_token: float) -> list[Moment]:
    """The cold start of the first pod by stage, each with the moment at which it was over."""
    pod = min(recorder.stages, key=lambda name: recorder.stages[name]["created"])
    seen = recorder.stages[pod]
    activation = next(
        (
            record
            for record in reversed((await lab.llm(REAL))["status"]["decisions"])
            if record["reason"] == "Activated"
        ),
        None,
    )
    _require(activation, "the activation is among the decisions in status")
    assert activation is not None
    ordered = [
        Moment(asked, "request arrives and is held"),
        Moment(parse_timestamp(activation["at"]), "decided"),
        Moment(seen["created"], "created"),
        Moment(seen["scheduled"], "scheduled"),
        Moment(seen["image"], "image"),
        Moment(seen["weights"], "weights"),
        Moment(seen["engine"], "engine started"),
        Moment(seen["ready"], "warm-up, ready"),
        Moment(first_token, "first token"),
    ]
    return sorted(ordered, key=lambda moment: moment.at)


def _require(happened: Any, what: str) -> None:
    if not happened:
        raise AssertionError(f"this did not happen: {what}")
