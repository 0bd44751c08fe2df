"""`lull why NAME`: the last decisions, what holds the number of replicas now, and what would change it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from lull.api.quantities import render_duration
from lull.api.timestamps import parse_timestamp, render_timestamp
from lull.cli.cluster import Unreachable, ask, choose_namespace, complain, find_one, to_json
from lull.core.explaining import Explanation, explain, strip_arrow
from lull.doors import clock

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest
    from lull.api.status import DecisionRecord
    from lull.doors.kube import Kube


def run(name: str, *, namespace: str | None, context: str | None, output: str, last: int) -> int:
    """Print the explanation; 1 where there is no such LLMDeployment."""
    scope = choose_namespace(namespace, everywhere=False, context=context) or "default"

    async def look(kube: Kube) -> Manifest:
        return await find_one(kube, name, scope)

    try:
        manifest = ask(look, context=context)
    except (Unreachable, LookupError) as error:
        return complain("why", error)
    now = clock.wall()
    explanation = explain(manifest, now)
    if output == "json":
        print(json.dumps(to_json(explanation), indent=2, ensure_ascii=False))
    else:
        Console(soft_wrap=True, highlight=False).print(render(explanation, now, last=last))
    return 0


def render(explanation: Explanation, now: float, *, last: int = 10) -> Text:
    """The explanation as lines."""
    counts = f"{explanation.ready_replicas} of {explanation.desired_replicas} replicas ready"
    text = Text.assemble((f"{explanation.namespace}/{explanation.name}", "bold"), f"  {counts}")
    if not explanation.decisions:
        text.append("\nNo decision has changed the number of replicas yet.")
    for decision in explanation.decisions[:last]:
        text.append("\n").append_text(_render_decision(decision, now))
    for title, lines in (("Now:", explanation.holds), ("What would change it:", explanation.levers)):
        if lines:
            text.append(f"\n{title}", style="bold")
        for line in lines:
            text.append(f"\n  {line}")
    return text


def _render_decision(decision: DecisionRecord, now: float) -> Text:
    at = parse_timestamp(decision.at)
    day, _, time = render_timestamp(at).removesuffix("Z").partition("T")
    when = time if render_timestamp(now).startswith(day) else f"{day} {time}"
    ago = render_duration(round(max(0.0, now - at)))
    return Text.assemble(
        (f"{decision.from_replicas} → {decision.to_replicas}", "bold"),
        f" at {when}: {strip_arrow(decision.message)}",
        (f"  ({decision.reason.value}, {ago} ago)", "dim"),
    )
