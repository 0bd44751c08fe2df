"""Run the demo: set up everything, play both acts, print the timeline, draw the chart."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from openai import APIError
from rich.table import Table

from e2e.cluster import ClusterError
from e2e.demo import picture, story
from e2e.demo.recorder import Recorder
from e2e.demo.screen import Screen
from e2e.images import BuildError
from e2e.lab import install, open_lab
from e2e.progress import say

if TYPE_CHECKING:
    from e2e.demo.story import Act
    from e2e.lab import Installation


def main() -> int:
    """Return the exit status: 0 where every step happened."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where .svg, .png and .json go")
    arguments = parser.parse_args()
    screen = Screen()
    failures: list[BaseException] = []
    try:
        screen.title("Setting up: cluster, images, chart")
        with install(["lull", "engine-sim", "engine-cpu"], values=[f"hub.endpoint={story.HUB}"]) as installation:
            asyncio.run(_play(installation, screen, arguments.out))
            _farewell(installation, screen, arguments.out)
    except* (ClusterError, BuildError, AssertionError, RuntimeError, TimeoutError, APIError) as group:
        failures.extend(group.exceptions)
    for failure in failures:
        say(f"\nThe demo failed: {failure}")
    return 1 if failures else 0


async def _play(installation: Installation, screen: Screen, out: Path) -> None:
    async with open_lab(installation, story.NAMESPACE, keep=True) as lab:
        await lab.kubectl("delete", "llm", "--all", "--wait=true")
        await lab.apply(*story.hub(installation.images["engine-cpu"]))
        with screen.doing("a hub in the cluster makes a tiny model"):
            await lab.kubectl("wait", "--for=condition=Ready", "pod/hub", "--timeout=180s")
        recorder = Recorder(lab)
        recording = asyncio.create_task(recorder.run())
        acts: list[Act] = []
        try:
            with screen.watching(recorder):
                for play in (story.act_one, story.act_two):
                    screen.title((play.__doc__ or "").strip())
                    acts.append(await play(lab, recorder, screen))
        finally:
            recording.cancel()
            with suppress(asyncio.CancelledError):
                await recording
    _print_timeline(acts, screen)
    _write(acts, recorder, out)


def _print_timeline(acts: list[Act], screen: Screen) -> None:
    screen.title("Timeline")
    stages = acts[0].stages
    table = Table("cold start", "after the request", "took", box=None, pad_edge=False)
    for before, moment in zip([stages[0], *stages], stages, strict=False):
        table.add_row(moment.words, f"{moment.at - stages[0].at:8.3f} s", f"{moment.at - before.at:8.3f} s")
    screen.console.print(table)
    for act in acts:
        start = act.moments[0].at
        moments = "  ".join(f"{moment.words} [bold]{moment.at - start:.1f} s[/bold]" for moment in act.moments)
        screen.console.print(f"\n{act.title}: {act.requests} requests answered\n  {moments}")


def _write(acts: list[Act], recorder: Recorder, out: Path) -> None:
    panels = {}
    for act in acts:
        samples = [s for s in recorder.samples[act.model] if act.moments[0].at - 3 <= s.at <= act.moments[-1].at + 2]
        panels[act.title] = samples
    picture.draw(panels, {act.title: [(m.at, m.words) for m in act.moments] for act in acts}, out)
    out.with_suffix(".json").write_text(
        json.dumps(
            {
                "at": time.time(),
                "acts": [asdict(act) for act in acts],
                "samples": {act.model: [asdict(sample) for sample in panels[act.title]] for act in acts},
            },
            indent=1,
        )
    )


def _farewell(installation: Installation, screen: Screen, out: Path) -> None:
    screen.title("The cluster stays up. Three commands to try")
    kubeconfig = installation.cluster.kubeconfig
    screen.console.print(
        f"  export KUBECONFIG={kubeconfig} PATH={installation.cluster.kubectl.parent}:$PATH\n"
        f"  kubectl get llm -n {story.NAMESPACE} -w\n"
        f"  kubectl describe llm/{story.SIM} -n {story.NAMESPACE}\n"
        f"  curl {installation.gateway_url()}/v1/chat/completions -H 'content-type: application/json' "
        f'-d \'{{"model":"{story.SIM}","messages":[{{"role":"user","content":"hello"}}]}}\'\n\n'
        f"Chart: {out}.svg and {out}.png. `make cluster-down` stops the cluster and leaves nothing behind.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
