"""How fast the gateway is, beside vllm-router on the same machine in the same minutes.

Each gateway has one core, the mock engine and the load generator have another. All gateways run all the time, idle but
for the one whose turn it is, and take turns in every round: first to last, then last to first. What is compared are
medians over rounds. Lull checks a key, counts limits, routes by prefix and load, reads usage, and logs what fails.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bench.gateway.contenders import ROUTER_POLICIES, engines, lull, router
from bench.gateway.crowd import measure_crowd, measure_held, measure_idle
from bench.gateway.machine import GATEWAY_CORE, OTHER_CORES
from bench.gateway.matrix import compare
from bench.gateway.programs import build_engine, build_load, install_lull, install_router
from bench.gateway.scaling import measure_scaling
from e2e.progress import say

if TYPE_CHECKING:
    from bench.claims import Claim


def measure() -> list[Claim]:
    """In about five minutes."""
    return _measure(rounds=5, seconds=1.5)


def measure_full() -> list[Claim]:
    """With more rounds, and longer ones, and a hundred thousand idle connections."""
    return _measure(rounds=9, seconds=4, idle=True)


def _measure(*, rounds: int, seconds: float, idle: bool = False) -> list[Claim]:
    engine, load, routers, own = build_engine(), build_load(), install_router(), install_lull()
    say(f"  gateways on core {GATEWAY_CORE}, mock engine and load generator on {', '.join(map(str, OTHER_CORES))}")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        direct, ports = stack.enter_context(engines(engine, folder))
        _, asleep = stack.enter_context(engines(engine, folder, asleep=True))
        with ExitStack() as rivals:
            contenders = [
                direct,
                *(
                    rivals.enter_context(router(routers, folder, policy=policy, engine_ports=ports))
                    for policy in ROUTER_POLICIES
                ),
                rivals.enter_context(lull(own, folder, engine_ports=ports)),
            ]
            claims = compare(load, contenders, rounds=rounds, seconds=seconds)
        with lull(own, folder, engine_ports=ports) as gateway:
            claims += measure_crowd(load, gateway)
        with lull(own, folder, engine_ports=ports, asleep_ports=asleep) as gateway:
            claims += measure_held(load, gateway)
        claims += measure_scaling(load, own, folder, ports, seconds=seconds)
        if idle:
            claims += measure_idle(load, own, folder, ports)
    return claims
