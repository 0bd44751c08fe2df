"""`lull status [NAME]`: a tree from the LLMDeployment down to the node, with reasons."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from lull.api import names
from lull.api.quantities import render_duration
from lull.api.timestamps import parse_timestamp
from lull.cli.cluster import Unreachable, ask, choose_namespace, complain, to_json
from lull.core.overview import Overview, PodView, PoolView, build_overview
from lull.doors import clock
from lull.doors.kube import LLMDEPLOYMENTS, NODES, PODS, Refused

if TYPE_CHECKING:
    from lull.api.llmdeployment import Manifest
    from lull.doors.kube import Kube

_EVERY: Final = 2.0
_STYLES: Final = {"Ready": "green", "Asleep": "blue", "Starting": "yellow", "Leaving": "dim"}


def run(  # noqa: C901  one way out for each way in which it can end
    name: str | None, *, namespace: str | None, everywhere: bool, context: str | None, output: str, watch: bool
) -> int:
    """Print the LLMDeployments; 0 where all are ready, 3 where one is not, 1 where it cannot be known."""
    scope = choose_namespace(namespace, everywhere=everywhere, context=context)

    async def look(kube: Kube) -> tuple[Overview, ...]:
        return await _look(kube, name, scope)

    async def follow(kube: Kube) -> None:
        with Live(console=Console(), refresh_per_second=2) as live:
            while True:
                live.update(Group(*(render(one, clock.wall()) for one in await look(kube))))
                await asyncio.sleep(_EVERY)

    try:
        if watch:
            ask(follow, context=context)
            return 0
        found = ask(look, context=context)
    except Unreachable as error:
        return complain("status", error)
    except KeyboardInterrupt:
        return 0
    where = "in any namespace" if scope is None else f"in namespace {scope}"
    if name is not None and not found:
        return complain("status", LookupError(f"there is no LLMDeployment {name} {where}"))
    if output == "json":
        print(json.dumps([to_json(one) for one in found], indent=2))
    elif not found:
        print(f"There is no LLMDeployment {where}.")
    else:
        console = Console(soft_wrap=True, highlight=False)
        for one in found:
            console.print(render(one, clock.wall()))
    return 0 if all(one.is_ready for one in found) else 3


async def _look(kube: Kube, name: str | None, namespace: str | None) -> tuple[Overview, ...]:
    listing, pods = await asyncio.gather(
        kube.list(LLMDEPLOYMENTS, namespace=namespace),
        kube.list(PODS, namespace=namespace, labels=f"{names.LABEL_DEPLOYMENT},{names.LABEL_COMPONENT}"),
    )
    nodes = await _list_nodes(kube)
    return tuple(
        build_overview(manifest, [pod for pod in pods.items if _belongs(pod, manifest)], nodes)
        for manifest in listing.items
        if name is None or manifest["metadata"]["name"] == name
    )


async def _list_nodes(kube: Kube) -> dict[str, Manifest]:
    try:
        return {node["metadata"]["name"]: node for node in (await kube.list(NODES)).items}
    except Refused:
        # Whoever may not read nodes still sees everything else.
        return {}


def _belongs(pod: Manifest, manifest: Manifest) -> bool:
    metadata = pod["metadata"]
    return bool(
        metadata["namespace"] == manifest["metadata"]["namespace"]
        and metadata["labels"][names.LABEL_DEPLOYMENT] == manifest["metadata"]["name"]
    )


def render(overview: Overview, now: float) -> Tree:
    """The tree of one LLMDeployment."""
    mark, style = ("●", "green") if overview.is_ready else ("○", "red")
    title = Text.assemble(
        (f"{mark} ", style),
        (f"{overview.namespace}/{overview.name}", "bold"),
        f"  {overview.summary}  ",
        (overview.reason, style),
        (f"  {overview.model}", "dim"),
        (f"  {overview.accelerator}" if overview.accelerator else "", "dim"),
    )
    tree = Tree(title, guide_style="dim")
    if not overview.is_ready or overview.message:
        tree.add(Text(overview.message, style="" if overview.is_ready else style))
    for complaint in overview.complaints:
        tree.add(Text.assemble((f"{complaint.type}: {complaint.reason}", "yellow"), f"  {complaint.message}"))
    for pool in overview.pools:
        _add_pool(tree, pool, now)
    for adapter in overview.adapters:
        state = adapter.state.value
        tree.add(
            Text.assemble(
                f"adapter {adapter.name}  ",
                (state, _STYLES.get(state, "red" if state == "Failed" else "yellow")),
                f"  on {adapter.ready_replicas}",
                (f"  {adapter.message}" if adapter.message else ""),
            )
        )
    if (start := overview.cold_start) is not None:
        stages = f"node {start.scheduled}, image {start.image}, weights {start.weights}, warm-up {start.warm_up}"
        tree.add(Text(f"last cold start {start.total}: {stages}", style="dim"))
    if (decision := overview.last_decision) is not None:
        change = f"{decision.from_replicas} → {decision.to_replicas}, {_ago(decision.at, now)} ago"
        tree.add(Text(f"last decision {change}: {decision.reason.value}. {decision.message}", style="dim"))
    return tree


def _add_pool(tree: Tree, pool: PoolView, now: float) -> None:
    counts = f"{pool.ready_replicas}/{pool.desired_replicas}"
    branch = tree.add(Text(f"pool {pool.name}  {counts}  {pool.capacity_type or 'is being emptied'}"))
    for pod in pool.pods:
        branch.add(_render_pod(pod, now))


def _render_pod(pod: PodView, now: float) -> Text:
    node = pod.node
    facts = [] if node is None else [node.capacity_type, node.zone, node.product, "cordoned" if node.is_closed else ""]
    where = "" if node is None else f"  {node.name} ({', '.join(fact for fact in facts if fact) or 'a node'})"
    return Text.assemble(
        f"{pod.name}  ",
        (pod.state, _STYLES.get(pod.state, "red")),
        (f" {pod.message}" if pod.message else ""),
        (where, "dim"),
        (f"  {_ago(pod.created_at, now)}" if pod.created_at else "", "dim"),
        (f"  restarted {pod.restarts} times" if pod.restarts else "", "yellow"),
    )


def _ago(timestamp: str, now: float) -> str:
    return render_duration(round(max(now - parse_timestamp(timestamp), 0)))
