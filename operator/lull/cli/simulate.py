"""`lull simulate`: what policies make of a trace, side by side, by the very `decide` that the operator runs."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import sys
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, Final, Self

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lull.api.llmdeployment import Key
from lull.api.quantities import parse_duration, render_duration
from lull.cli.cluster import complain, to_json
from lull.core.admission import HOLD_AT_LEAST, HOLD_AT_MOST, HOLD_PER_COLD_START
from lull.core.routing import DEFAULT_MAX_NUM_SEQS, SLOTS_PER_SEQUENCE
from lull.core.simulation.fleet import ColdStart, Options, Slo, Spot, simulate
from lull.core.simulation.panels import build_panels
from lull.core.simulation.policies import InvalidPolicy, parse_policy
from lull.core.simulation.replicas import InvalidReplica, Replica, find_preset, parse_replica
from lull.core.simulation.scalers import LullScaler
from lull.core.simulation.svg import render_svg
from lull.core.simulation.traces import InvalidTrace, make_trace, parse_trace
from lull.core.simulation.tuning import Trial, read_choice, tune
from lull.doors import clock
from lull.settings import OperatorSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lull.api.scaling import SloSpec
    from lull.api.spec import LLMDeploymentSpec
    from lull.core.simulation.engine import Request
    from lull.core.simulation.outcome import Outcome, Percentiles
    from lull.core.simulation.traces import Rates, Trace
    from lull.core.simulation.tuning import Choice

_PATIENCE: Final = 2.0
"""Seconds after which a progress bar is shown."""
_TABLE_WIDTH: Final = 140
_STEP: Final = 500
"""Requests between two looks at the clock."""
_RATE_STEP: Final = 120.0
"""Seconds of a step of what Prometheus counted: two scrapes, where it scrapes once a minute."""
_GZIP: Final = b"\x1f\x8b"


class _Refused(Exception):  # noqa: N818  what the user reads
    """An option or a file that makes no sense."""


@dataclass(frozen=True, slots=True)
class Question:
    """The command line."""

    trace: str
    llm: str | None
    days: float
    policies: Sequence[Path]
    engine: str
    cold_start: str
    slo_ttft: str | None
    slo_tpot: str | None
    attainment: float | None
    gpu_price: float | None
    initial_replicas: int | None
    spot_lifetime: str | None
    spot_notice: str
    tune: bool
    tries: int
    plot: Path | None
    seed: int


@dataclass(frozen=True, slots=True)
class _Run:
    """One policy and what came of it."""

    name: str
    spec: LLMDeploymentSpec
    outcome: Outcome
    scaler: LullScaler


@dataclass(frozen=True, slots=True)
class _Scene:
    """What all policies have in common."""

    question: Question
    requests: tuple[Request, ...]
    options: Options
    replica: Replica
    attainment: float
    """Share of the requests that should meet the SLO."""

    def play(self, name: str, spec: LLMDeploymentSpec, requests: Iterable[Request]) -> _Run:
        price = self.question.gpu_price
        scaler = LullScaler(
            spec,
            tick=OperatorSettings().tick_seconds,
            price=None if price is None else price * self.replica.gpus,
        )
        engine, model = spec.engine, self.replica.model
        model = replace(
            model,
            max_num_seqs=engine.max_num_seqs or model.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens or model.max_num_batched_tokens,
        )
        given = self.question.initial_replicas
        options = replace(
            self.options,
            initial_replicas=spec.scaling.min_replicas if given is None else given,
            max_replicas=spec.replicas or spec.scaling.max_replicas,
            slots=SLOTS_PER_SEQUENCE * (engine.max_num_seqs or DEFAULT_MAX_NUM_SEQS),
            max_held=spec.queue.max_held,
            hold_seconds=self._find_hold(spec),
            drain_seconds=parse_duration(spec.rollout.drain),
        )
        return _Run(name, spec, simulate(requests, scaler, model, options, self.question.seed), scaler)

    def _find_hold(self, spec: LLMDeploymentSpec) -> float:
        if spec.queue.hold_for != "Auto":
            return parse_duration(spec.queue.hold_for)
        cold_start = self.options.cold_start
        seconds = cold_start.high if isinstance(cold_start, ColdStart) else cold_start
        return min(max(HOLD_PER_COLD_START * seconds, HOLD_AT_LEAST), HOLD_AT_MOST)


def run(question: Question, *, output: str) -> int:
    """Simulate and print; 1 where something is wrong, 3 where `--tune` found no policy that meets the SLO."""
    try:
        scene, policies = _prepare(question)
        draw = _find_drawer(question.plot)
    except _Refused as error:
        return complain("simulate", error)
    began = clock.monotonic()
    trials: list[Trial] = []
    if question.tune:
        runs, trials = _tune(scene, *next(iter(policies.items())), aloud=output == "text")
    else:
        runs = _compare(scene, policies)
    took = clock.monotonic() - began
    if output == "json":
        print(json.dumps(_describe(scene, runs, trials), indent=2))
    else:
        _show(scene, runs, trials)
        simulated = sum(run.outcome.seconds for run in runs) + sum(trial.outcome.seconds for trial in trials)
        speed = simulated / max(took, 1e-6)
        print(f"Simulated {render_duration(simulated)} in {render_duration(took)}, {speed:,.0f} times real time.")
    if question.plot is not None:
        try:
            draw({run.name: run.outcome for run in runs}, question.plot)
        except OSError as error:
            return complain("simulate", error)
    return 3 if question.tune and not _is_met(runs[-1].outcome, scene) else 0


def _prepare(question: Question) -> tuple[_Scene, dict[str, LLMDeploymentSpec]]:
    """Read everything; _Refused says what is wrong."""
    policies = {name: _read_policy(path) for name, path in _name(question.policies).items()}
    if question.tune and len(policies) > 1:
        raise _Refused("--tune starts from one policy: give one --policy")
    if question.tune and next(iter(policies.values())).replicas is not None:
        raise _Refused("--tune: spec.replicas is set, so there is nothing to tune: leave it out")
    if question.gpu_price is None and any(spec.scaling.budget is not None for spec in policies.values()):
        raise _Refused("spec.scaling.budget needs to know what a GPU costs an hour: give --gpu-price")
    replica = _read_replica(question.engine)
    trace = _read_trace(question)
    spot = None
    if question.spot_lifetime is not None:
        spot = Spot(
            _read_duration("--spot-lifetime", question.spot_lifetime),
            _read_duration("--spot-notice", question.spot_notice),
        )
    slo = _find_slo(question, policies)
    options = Options(
        cold_start=_read_cold_start(question.cold_start),
        slo=Slo(parse_duration(slo.time_to_first_token), parse_duration(slo.time_per_output_token)),
        gpus_per_replica=replica.gpus,
        spot=spot,
        until=trace.seconds,
    )
    if trace.begins is not None:
        options = replace(options, begins=trace.begins)
    share = (slo.percentile if question.attainment is None else question.attainment) / 100
    # A policy that says nothing of an SLO is scaled for the one that it is measured by.
    policies = {
        name: spec if "slo" in spec.model_fields_set else spec.model_copy(update={"slo": slo})
        for name, spec in policies.items()
    }
    return _Scene(question, trace.requests, options, replica, share), policies


def _read_trace(question: Question) -> Trace:
    """From a file, or from the Prometheus at a URL."""
    from pathlib import Path

    try:
        if question.trace.startswith(("http://", "https://")):
            return make_trace(_read_rates(question), seed=question.seed)
        if question.llm is not None:
            raise _Refused(f"--llm is of the Prometheus that --trace names by its URL, and {question.trace} is a file")
        return parse_trace(_read_text(Path(question.trace)).splitlines())
    except InvalidTrace as error:
        raise _Refused(f"{question.trace}: {error}") from error


def _read_rates(question: Question) -> Rates:
    from lull.doors.prometheus import Prometheus, Unavailable

    namespace, _, name = (question.llm or "").partition("/")
    if not all(re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", part) for part in (namespace, name)):
        raise _Refused("--llm must say whose requests Prometheus counted, as namespace/name: --llm default/llama-8b")
    prometheus = Prometheus(question.trace, credentials=OperatorSettings().prometheus_credentials)
    key = Key(namespace, name)
    try:
        return asyncio.run(prometheus.read_rates(key, wall=clock.wall(), days=question.days, step=_RATE_STEP))
    except Unavailable as error:
        raise _Refused(f"{question.trace}: Prometheus does not answer: {error}") from error
    finally:
        prometheus.close()


def _find_slo(question: Question, policies: Mapping[str, LLMDeploymentSpec]) -> SloSpec:
    """What all policies are measured by: the command line, else what they say."""
    first, *others = (spec.slo for spec in policies.values())
    if question.slo_ttft is None or question.slo_tpot is None:
        for other in others:
            if other != first:
                raise _Refused("the policies differ in spec.slo: say what to measure by, --slo-ttft and --slo-tpot")
    given = {
        "time_to_first_token": _read_slo("--slo-ttft", question.slo_ttft),
        "time_per_output_token": _read_slo("--slo-tpot", question.slo_tpot),
    }
    return first.model_copy(update={name: text for name, text in given.items() if text is not None})


def _read_slo(option: str, text: str | None) -> str | None:
    if text is not None:
        _read_duration(option, text)
    return text


def _name(paths: Sequence[Path]) -> dict[str, Path]:
    """A short name for each: what tells it from the others."""
    stems = [path.stem for path in paths]
    return {path.stem if stems.count(path.stem) == 1 else str(path): path for path in paths}


def _read_policy(path: Path) -> LLMDeploymentSpec:
    try:
        return parse_policy(_read_text(path), file=str(path))
    except InvalidPolicy as error:
        raise _Refused(str(error)) from error


def _read_replica(engine: str) -> Replica:
    from pathlib import Path

    try:
        if engine.endswith((".yaml", ".yml")):
            return parse_replica(_read_text(Path(engine)), name=Path(engine).stem)
        return find_preset(engine)
    except InvalidReplica as error:
        raise _Refused(f"--engine {engine}: {error}") from error


def _read_text(path: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read()
        return content.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _Refused(f"{path}: {reason}") from error


def _read_duration(option: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise _Refused(f"{option}: {error}") from error
    if seconds <= 0:
        raise _Refused(f"{option}: {text} must be more than 0")
    return seconds


def _read_cold_start(text: str) -> float | ColdStart:
    low, dash, high = text.partition("-")
    first = _read_duration("--cold-start", low)
    if not dash:
        return first
    last = _read_duration("--cold-start", high)
    if last < first:
        raise _Refused(f"--cold-start: {text} must be a shorter and a longer time, as in 80s-140s")
    return ColdStart(first, last)


def _find_drawer(plot: Path | None) -> Any:  # noqa: ANN401  a function, or nothing
    if plot is None:
        return None
    if plot.suffix not in {".svg", ".png"}:
        raise _Refused(f"--plot {plot}: name a file that ends in .svg or .png")
    if not plot.parent.is_dir():
        raise _Refused(f"--plot {plot}: there is no folder {plot.parent}")
    if plot.suffix == ".svg":
        return lambda outcomes, out: out.write_text(render_svg(build_panels(outcomes)))
    try:
        from lull.cli.png import draw_png
    except ModuleNotFoundError as error:
        raise _Refused(
            f"--plot {plot}: needs matplotlib, which is not installed; a name in .svg needs nothing"
        ) from error
    return lambda outcomes, out: draw_png(build_panels(outcomes), out)


class _Watch:
    """A progress bar on standard error, for those who wait longer than a moment."""

    def __init__(self, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("simulating", total=total)
        self._began = clock.monotonic()
        self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def follow(self, requests: Sequence[Request], what: str) -> Iterator[Request]:
        """The same requests, told by the bar as they are taken."""
        for at, request in enumerate(requests, start=1):
            if at % _STEP == 0:
                self._bar.update(self._task, advance=_STEP, description=what)
                if not self._is_shown and clock.monotonic() - self._began > _PATIENCE:
                    self._is_shown = True
                    self._bar.start()
            yield request
        self._bar.update(self._task, advance=len(requests) % _STEP)


def _compare(scene: _Scene, policies: Mapping[str, LLMDeploymentSpec]) -> list[_Run]:
    with _Watch(len(scene.requests) * len(policies)) as watch:
        return [scene.play(name, spec, watch.follow(scene.requests, name)) for name, spec in policies.items()]


def _tune(scene: _Scene, name: str, spec: LLMDeploymentSpec, *, aloud: bool) -> tuple[list[_Run], list[Trial]]:
    """The policy as given and, where it is another, the best one; and all trials."""
    runs: list[_Run] = []
    trials: list[Trial] = []
    question = scene.question
    with _Watch(len(scene.requests) * question.tries) as watch:

        def evaluate(candidate: LLMDeploymentSpec) -> Outcome:
            tried = scene.play(name, candidate, watch.follow(scene.requests, f"policy {len(runs) + 1}"))
            runs.append(tried)
            return tried.outcome

        for trial in tune(spec, evaluate, attainment=scene.attainment, most=question.tries):
            trials.append(trial)
            if aloud:
                watch.say(_render_trial(trial, scene.attainment))
    best = max(range(len(trials)), key=lambda at: (trials[at].is_best, at))
    tuned = replace(runs[best], name="tuned")
    return ([runs[0]] if best == 0 else [runs[0], tuned]), trials


def _render_trial(trial: Trial, attainment: float) -> str:
    choice, outcome = trial.choice, trial.outcome
    mark = "*" if trial.is_best else " "
    verdict = "" if trial.is_met else f", below {100 * attainment:g} %"
    in_flight = "default" if choice.in_flight is None else choice.in_flight
    window = "default" if choice.window is None else f"{choice.window} s"
    return (
        f"{mark} inFlight {in_flight}, minReplicas {choice.min_replicas}, scale-down window {window}: "
        f"{outcome.attainment:.2%}{verdict}, {outcome.gpu_hours:.2f} GPU-hours"
    )


def _is_met(outcome: Outcome, scene: _Scene) -> bool:
    return outcome.attainment >= scene.attainment


def _show(scene: _Scene, runs: Sequence[_Run], trials: Sequence[Trial]) -> None:
    question, options = scene.question, scene.options
    print(_describe_trace(scene))
    print(_describe_replica(scene.replica))
    print(
        f"SLO: first token within {_render(options.slo.ttft)}, each further one within {_render(options.slo.tpot)}. "
        f"Cold start {question.cold_start}. Seed {question.seed}."
    )
    print()
    console = Console(highlight=False)
    # A line that goes on beyond the edge can be read; columns that are cut cannot.
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(_build_table(scene, runs))
    for run in runs:
        for line in _remark(run):
            print(f"{run.name}: {line}")
    if trials:
        _show_tuned(scene, runs, trials)


def _describe_trace(scene: _Scene) -> str:
    requests = scene.requests
    count, seconds = len(requests), max(requests[-1].at, 1.0)
    inputs = sum(request.input_tokens for request in requests) / count
    outputs = sum(request.output_tokens for request in requests) / count
    return (
        f"Trace {_name_trace(scene.question)}: {count:,} requests in {render_duration(seconds)}, {count / seconds:.2f}/s, "
        f"{_find_peak(requests):.2f}/s in the busiest minute; {inputs:,.0f} tokens in and {outputs:,.0f} out."
    )


def _name_trace(question: Question) -> str:
    return question.trace if question.llm is None else f"{question.llm} of {question.trace}"


def _find_peak(requests: Sequence[Request]) -> float:
    counts: dict[int, int] = {}
    for request in requests:
        minute = int(request.at // 60)
        counts[minute] = counts.get(minute, 0) + 1
    return max(counts.values()) / 60


def _describe_replica(replica: Replica) -> str:
    model, gpus = replica.model, replica.gpus
    return (
        f"Replica {replica.name}: {gpus} GPU{'s' if gpus > 1 else ''}, {model.kv_tokens:,} tokens of KV cache, "
        f"{1000 * model.step_seconds(1, 1000):.1f} ms a token alone, "
        f"{1000 / model.prefill_seconds(1000, 0):,.0f} tokens a second read."
    )


def _build_table(scene: _Scene, runs: Sequence[_Run]) -> Table:
    price = scene.question.gpu_price
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("POLICY", no_wrap=True)
    names = ["SLO MET", "TTFT P50", "P99", "TPOT P50", "P99", "REPLICAS", "MOST", "GPU-HOURS"]
    for name in (*names, *(("COST",) if price is not None else ()), "STARTS", "LONGEST HOLD"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        outcome = run.outcome
        style = "green" if _is_met(outcome, scene) else "yellow"
        table.add_row(
            run.name,
            f"[{style}]{outcome.attainment:.2%}[/]",
            *_render_percentiles(outcome.ttft),
            *_render_percentiles(outcome.tpot),
            f"{outcome.mean_replicas:.2f}",
            str(outcome.most_replicas),
            f"{outcome.gpu_hours:.2f}",
            *((f"{outcome.gpu_hours * price:.2f}",) if price is not None else ()),
            str(outcome.starts),
            _render(outcome.longest_hold),
        )
    return table


def _render_percentiles(found: Percentiles | None) -> tuple[str, str]:
    return ("-", "-") if found is None else (_render(found.p50), _render(found.p99))


def _render(seconds: float) -> str:
    """To the millisecond where that tells anything."""
    return f"{ceil(seconds * 1000 - 1e-6)}ms" if seconds < 1 else render_duration(seconds)


def _remark(run: _Run) -> Iterator[str]:
    """Requests that got no answer, if any, and what of the policy was not played."""
    outcome = run.outcome
    if run.spec.scaling.sleep is not None:
        yield (
            "scaling.sleep is not simulated: replicas stay awake, which costs as many GPU-hours, and no request waits for "
            "one that wakes up."
        )
    if outcome.refused:
        yield f"{outcome.refused:,} requests are larger than an engine's whole KV cache, and were refused."
    if outcome.shed:
        yield f"{outcome.shed:,} requests were turned away after queue.holdFor, or above queue.maxHeld."
    if outcome.failed:
        yield f"{outcome.failed:,} answers were cut, as their replica went away; {outcome.losses} were lost."


def _show_tuned(scene: _Scene, runs: Sequence[_Run], trials: Sequence[Trial]) -> None:
    share = f"{100 * scene.attainment:g} % of the requests"
    print()
    if not _is_met(runs[-1].outcome, scene):
        print(f"None of {len(trials)} policies meets the SLO for {share}; the best:")
    elif len(runs) == 1:
        print(f"None of {len(trials)} policies is cheaper than the given one:")
    else:
        print(f"The cheapest of {len(trials)} policies that meets the SLO for {share}:")
    print(yaml.safe_dump({"scaling": _describe_choice(read_choice(runs[-1].spec))}, sort_keys=False), end="")


def _describe_choice(choice: Choice) -> dict[str, Any]:
    """As it stands in a manifest: without what is left to Lull."""
    return {
        "minReplicas": choice.min_replicas,
        **({} if choice.in_flight is None else {"target": {"inFlight": choice.in_flight}}),
        **({} if choice.window is None else {"behavior": {"scaleDown": {"stabilizationWindowSeconds": choice.window}}}),
    }


def _describe(scene: _Scene, runs: Sequence[_Run], trials: Sequence[Trial]) -> dict[str, Any]:
    question, options = scene.question, scene.options
    return {
        "trace": {
            "file": question.trace,
            **({} if question.llm is None else {"llm": question.llm, "days": question.days}),
            "requests": len(scene.requests),
            "seconds": scene.requests[-1].at,
            "busiestMinutePerSecond": _find_peak(scene.requests),
        },
        "replica": {"name": scene.replica.name, "gpus": scene.replica.gpus, **to_json(scene.replica.model)},
        "slo": {
            "ttftSeconds": options.slo.ttft,
            "tpotSeconds": options.slo.tpot,
            "attainment": scene.attainment,
        },
        "coldStart": question.cold_start,
        "seed": question.seed,
        "policies": [_describe_run(run, scene) for run in runs],
        **({"trials": [_describe_trial(trial) for trial in trials]} if trials else {}),
    }


def _describe_run(run: _Run, scene: _Scene) -> dict[str, Any]:
    outcome = to_json(replace(run.outcome, samples=()))
    del outcome["samples"]
    price = scene.question.gpu_price
    cost = {} if price is None else {"cost": run.outcome.gpu_hours * price}
    return {
        "policy": run.name,
        "scaling": run.spec.scaling.model_dump(mode="json", by_alias=True, exclude_none=True),
        "isMet": _is_met(run.outcome, scene),
        "notSimulated": ["scaling.sleep"] if run.spec.scaling.sleep is not None else [],
        **outcome,
        **cost,
        "changes": [to_json(change) for change in run.scaler.changes],
    }


def _describe_trial(trial: Trial) -> dict[str, Any]:
    outcome = trial.outcome
    return {
        "scaling": _describe_choice(trial.choice),
        "isMet": trial.is_met,
        "isBest": trial.is_best,
        "attainment": outcome.attainment,
        "gpuHours": outcome.gpu_hours,
    }
