"""How close the replica model comes to published measurements, and how its coefficients were fitted to them."""

from __future__ import annotations

import csv
import gzip
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.claims import Claim, percentile
from lull.core.simulation.calibration import CURRENT, EAGER_2023, GRAPHS_2024, Coefficients, Engine, build_replica_model
from lull.core.simulation.facts import find_gpu
from lull.core.simulation.presets import PRESETS
from lull.core.simulation.replica import Load, highest_rate, predict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from lull.core.simulation.replica import ReplicaModel

    Array = np.ndarray[Any, np.dtype[np.float64]]

DATA: Final = Path(__file__).parent / "data"
# What is known beforehand: a fit moves away from it only as far as measurements ask for it.
PRIOR: Final = Coefficients(
    weight_read=0.9,
    weight_read_quantized=0.8,
    expert_read=0.7,
    kv_read=0.7,
    kv_read_fp8=0.45,
    compute=0.7,
    compute_fp8=0.55,
    compute_fp4=0.45,
    expert_compute=0.35,
    expert_tile=32.0,
    attention=0.5,
    exchange_latency=10e-6,
    exchange_link=0.8,
    replicated=10.0,
    step=0.5e-3,
    layer=25e-6,
    expert_layer=15e-6,
    sequence=8e-6,
    prefill_layer=200e-6,
    request=10e-3,
    knee=4.0,
)
# What no hardware exceeds, whatever fits better.
_LIMITS: Final = {
    "weight_read": 0.93,
    "weight_read_quantized": 0.93,
    "expert_read": 0.93,
    "kv_read": 0.9,
    "kv_read_fp8": 0.9,
    "compute": 0.75,
    "compute_fp8": 0.75,
    "compute_fp4": 0.75,
    "expert_compute": 1.0,
    "attention": 0.7,
    "exchange_link": 1.0,
    "knee": 5.0,
}
# No calibration point was measured with 4-bit arithmetic: compute_fp4 is read off TensorRT-LLM's rows on B200.
_FREE: Final = tuple(name for name in Coefficients.__slots__ if name not in {"compute_fp4", "launch"})
_FREE_2024: Final = ("weight_read", "compute", "attention", "layer", "sequence", "exchange_link", "request")
_FREE_2023: Final = ("weight_read", "compute", "attention", "sequence", "exchange_link", "request", "launch")
# An engine without CUDA graphs is as slow as its processor: Splitwise's A100 machine launches kernels this much slower.
_HOSTS: Final = {"a100-80gb": 1.45}
_TTFT_WEIGHT: Final = 0.5
_ROBUST: Final = 0.08
_PRIOR_WEIGHT: Final = 0.05
_STEP: Final = 1e-3
_ROUNDS: Final = 40


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: how to predict it, and what was measured (0 where nothing was)."""

    name: str
    model: str
    gpu: str
    quality: str
    predict: Callable[[Coefficients], tuple[float, float]]
    """Seconds to the first token and between tokens."""
    ttft: float
    tpot: float


def measure() -> list[Claim]:
    """Compare the committed coefficients with every calibration point; fit them again and print both."""
    claims: list[Claim] = []
    for title, points, committed, (start, free) in (
        ("published points (calib)", published("calib"), CURRENT, (PRIOR, _FREE)),
        ("Splitwise table", splitwise(), EAGER_2023, (EAGER_2023, _FREE_2023)),
        ("SageServe table", sageserve(), GRAPHS_2024, (GRAPHS_2024, _FREE_2024)),
    ):
        _print_errors(title, points, committed)
        _print_coefficients(title, start, fit(points, start, free), committed)
        claims += _claims(title, points, committed)
    return [*claims, *_capacity()]


def measure_full() -> list[Claim]:
    """Predict each model and each GPU with coefficients that were fitted without it, besides."""
    points = published("calib")
    claims = measure()
    for title, field in (("model", "model"), ("GPU", "gpu")):
        key = attrgetter(field)
        ttft: list[float] = []
        tpot: list[float] = []
        for left_out in sorted({key(point) for point in points}):
            fitted = fit([point for point in points if key(point) != left_out], PRIOR, _FREE)
            unseen = [point for point in points if key(point) == left_out]
            _print_errors(f"{left_out}, left out of the fit", unseen, fitted)
            ttft += _errors(unseen, fitted, which=0)
            tpot += _errors(unseen, fitted, which=1)
        claims += [
            Claim(
                f"calibration: TPOT, median error, {title} left out", 100 * median(map(abs, tpot)), None, "%", len(tpot)
            ),
            Claim(
                f"calibration: TTFT, median error, {title} left out", 100 * median(map(abs, ttft)), None, "%", len(ttft)
            ),
        ]
    return claims


def published(split: str) -> list[Point]:
    """Published measurements of vLLM under load, those of one split that say all that a prediction needs."""
    with (DATA / "measured_points.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split and row["engine"] == "vllm"]
    needed = ("isl", "osl", "itl_ms", "ttft_ms")
    whole = [row for row in rows if all(row[name] for name in needed) and (row["request_rate"] or row["concurrency"])]
    return [_published(row) for row in whole]


def splitwise() -> list[Point]:
    """Single batches of Llama 2 70B and BLOOM on A100 and H100, in an engine of 2023 without CUDA graphs."""
    return [
        _batch(row, times, prompt=_whole_batch, unit=1e-3)
        for row, times in _table("calib_splitwise_sim.csv.gz")
        # With two ranks, 64 prompts do not fit into memory: what was measured is a part of them.
        if not (row["batch_size"] == "64" and row["tensor_parallel"] == "2")
    ]


def sageserve() -> list[Point]:
    """Single batches of Llama 3.1 8B on two A100, in an engine of 2024."""
    return [
        _batch(row, [(ttft, tpot / int(row["token_size"])) for ttft, tpot in times], prompt=_first_of_batch, unit=1.0)
        for row, times in _table("calib_sageserve_llama31-8b_tp2_a100.csv.gz")
    ]


def fit(points: Sequence[Point], start: Coefficients, free: Sequence[str]) -> Coefficients:
    """Fit by Gauss-Newton with Levenberg's damping, on logarithms, outliers weighed down (pseudo-Huber)."""
    origin = np.log([getattr(start, name) for name in free])
    most = np.array([math.log(_LIMITS[name]) if name in _LIMITS else math.inf for name in free])

    def residuals(at: Array) -> Array:
        coefficients = _at(start, free, at)
        return np.array([part for point in points for part in _residuals(point, coefficients)])

    def cost(at: Array, found: Array) -> float:
        robust = _ROBUST**2 * (np.sqrt(1 + (found / _ROBUST) ** 2) - 1)
        return float(robust.sum() + _PRIOR_WEIGHT * ((at - origin) ** 2).sum())

    at, damping = origin.copy(), 1e-2
    found = residuals(at)
    least = cost(at, found)
    for _ in range(_ROUNDS):
        slope = np.stack([(residuals(at + _STEP * axis) - found) / _STEP for axis in np.eye(len(free))], axis=1)
        weights = 1 / np.sqrt(1 + (found / _ROBUST) ** 2)
        curvature = slope.T @ (weights[:, None] * slope) + 2 * _PRIOR_WEIGHT * np.eye(len(free))
        gradient = slope.T @ (weights * found) + 2 * _PRIOR_WEIGHT * (at - origin)
        before = least
        for _ in range(8):
            damped = curvature + damping * np.diag(np.diag(curvature))
            moved = np.minimum(at + np.clip(-np.linalg.solve(damped, gradient), -0.5, 0.5), most)
            trial = residuals(moved)
            if (value := cost(moved, trial)) < least:
                at, found, least, damping = moved, trial, value, damping / 3
                break
            damping *= 4
        if before - least < 1e-4 * before:
            break
    return _at(start, free, at)


def _published(row: dict[str, str]) -> Point:
    is_inferencex, is_open = row["id"].startswith("ifx"), bool(row["request_rate"])
    # InferenceX draws lengths from 0.8 to 1.0 of the nominal ones.
    share = 0.9 if is_inferencex else 1.0
    engines = int(row["gpu_count"]) / int(row["tp"])
    load = Load(
        input_tokens=float(row["isl"]) * share,
        output_tokens=float(row["osl"]) * share,
        # The first 100 tokens are shared: six blocks of 16.
        cached_tokens=96.0 if "first 100 tokens shared" in row["notes"] else 0.0,
        rate=float(row["request_rate"]) / engines if is_open else None,
        concurrency=None if is_open else float(row["concurrency"]) / engines,
    )
    # NVIDIA's FP8 checkpoint of Llama 3.1 70B brings its cache's type with it; 64 sequences fitted on one H200 thanks to it.
    is_modelopt = row["weight_quant"] == "fp8" and "Llama-3.1-70B" in row["model"]
    engine = Engine(
        tensor_parallel=int(row["tp"]),
        quantization=row["weight_quant"],
        kv_cache_dtype="fp8" if is_modelopt else "auto",
        gpu_memory_utilization=0.95 if is_inferencex else 0.9,
        max_num_seqs=256,
        max_num_batched_tokens=8192 if is_inferencex else 2048,
    )

    def answer(coefficients: Coefficients) -> tuple[float, float]:
        seen = predict(build_replica_model(row["model"], row["gpu"], engine, coefficients), load)
        return seen.ttft, seen.tpot

    ttft, tpot = float(row["ttft_ms"]) / 1000, float(row["itl_ms"]) / 1000
    return Point(row["id"], row["model"], row["gpu"], row["quality"], answer, ttft, tpot)


def _table(name: str) -> Iterator[tuple[dict[str, str], list[tuple[float, float]]]]:
    """Measurements of the same batch, together."""
    same: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    columns = ("model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "token_size")
    with gzip.open(DATA / name, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            same[tuple(row[column] for column in columns)].append(row)
    for rows in same.values():
        yield rows[0], [(float(row["prompt_time"]), float(row["token_time"])) for row in rows]


def _batch(
    row: dict[str, str],
    times: Iterable[tuple[float, float]],
    *,
    prompt: Callable[[ReplicaModel, int, int], float],
    unit: float,
) -> Point:
    times = list(times)
    hardware = row["hardware"].removesuffix("-pcap")
    gpu = find_gpu(hardware)
    if hardware != row["hardware"]:
        # A power cap of 0.7 stretches the prompt phase by 1.3, says Splitwise, and leaves the tokens alone.
        gpu = replace(gpu, sustained=gpu.sustained / 1.3)
    size, batch, tokens = int(row["prompt_size"]), int(row["batch_size"]), int(row["token_size"])
    engine = Engine(tensor_parallel=int(row["tensor_parallel"]), max_num_seqs=64, max_num_batched_tokens=2048)

    def answer(coefficients: Coefficients) -> tuple[float, float]:
        host = replace(coefficients, launch=coefficients.launch * _HOSTS.get(hardware, 1.0))
        model = build_replica_model(row["model"], gpu, engine, host)
        return prompt(model, batch, size), model.step_seconds(batch, batch * (size + tokens / 2))

    return Point(
        f"{row['model']} {row['hardware']} x{row['tensor_parallel']}: {batch} x {size} + {tokens}",
        row["model"],
        row["hardware"],
        "table",
        answer,
        median(ttft for ttft, _ in times) * unit,
        median(tpot for _, tpot in times) * unit,
    )


def _whole_batch(model: ReplicaModel, batch: int, size: int) -> float:
    """The prefill of prompts in one step, none of which attends to another."""
    total = batch * size
    return model.request_seconds + model.mixed_step_seconds(prompt_tokens=total, before=(size - total) / 2)


def _first_of_batch(model: ReplicaModel, batch: int, size: int) -> float:
    """The first step alone: as many of the prompts as 1,024 tokens hold, by the times measured."""
    return _whole_batch(model, max(1, min(batch, 1024 // size)), size)


def _at(start: Coefficients, free: Sequence[str], at: Array) -> Coefficients:
    return replace(start, **{name: float(math.exp(value)) for name, value in zip(free, at, strict=True)})


def _residuals(point: Point, coefficients: Coefficients) -> tuple[float, float]:
    ttft, tpot = point.predict(coefficients)
    # A load that a replica cannot bear is as far off as any.
    return _TTFT_WEIGHT * math.log(min(ttft, 1e3) / point.ttft), math.log(tpot / point.tpot)


def _errors(points: Iterable[Point], coefficients: Coefficients, *, which: int) -> list[float]:
    measured = ((point.predict(coefficients)[which], (point.ttft, point.tpot)[which]) for point in points)
    return [min(predicted, 1e6) / real - 1 for predicted, real in measured]


def _claims(title: str, points: Sequence[Point], coefficients: Coefficients) -> list[Claim]:
    errors = partial(_errors, points, coefficients)
    tpot, ttft = ([abs(error) for error in errors(which=which)] for which in (1, 0))
    return [
        Claim(f"calibration: TPOT, median error, {title}", 100 * median(tpot), 10.0, "%", len(tpot)),
        Claim(f"calibration: TPOT, 90th percentile, {title}", 100 * percentile(tpot, 90), None, "%", len(tpot)),
        Claim(f"calibration: TTFT, median error, {title}", 100 * median(ttft), 25.0, "%", len(ttft)),
        Claim(f"calibration: TTFT, 90th percentile, {title}", 100 * percentile(ttft, 90), None, "%", len(ttft)),
    ]


def _capacity() -> list[Claim]:
    """llm-d's scenario: Qwen3-32B on two H100 served 1.4 to 1.5 requests/s, evenly spaced, of 4,000 and 1,000 tokens."""
    load = Load(input_tokens=4000, output_tokens=1000, variability=0.0)
    rate = highest_rate(PRESETS["qwen3-32b-h100-tp2"], load, ttft=3.0, tpot=0.1)
    name = "calibration: requests/s of Qwen3-32B on two H100 within 3 s and 100 ms"
    return [
        Claim(f"{name}, at least", rate, 1.4, "/s", 1, at_least=True),
        Claim(f"{name}, at most", rate, 1.5, "/s", 1),
    ]


def _print_errors(title: str, points: Sequence[Point], coefficients: Coefficients) -> None:
    table = Table(
        "points", "samples", "TPOT median", "bias", "p90", "TTFT median", "bias", "p90", box=None, title=title
    )
    groups: dict[str, list[Point]] = {"all": list(points)}
    for point in points:
        for name in (point.model, point.gpu, f"quality {point.quality}"):
            groups.setdefault(name, []).append(point)
    for name, group in groups.items():
        cells = [f"{value:+.1%}" for which in (1, 0) for value in _summary(_errors(group, coefficients, which=which))]
        table.add_row(name, str(len(group)), *cells)
    Console(width=140).print(table)


def _summary(errors: Sequence[float]) -> tuple[float, float, float]:
    sizes = [abs(error) for error in errors]
    return median(sizes), median(errors), percentile(sizes, 90)


def _print_coefficients(title: str, start: Coefficients, fitted: Coefficients, committed: Coefficients) -> None:
    table = Table("coefficient", "start", "fitted", "committed", box=None, title=f"{title}: coefficients")
    for name in Coefficients.__slots__:
        table.add_row(name, *(f"{getattr(each, name):.3g}" for each in (start, fitted, committed)))
    Console(width=140).print(table)
