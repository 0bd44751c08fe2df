from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from typer.testing import CliRunner, Result

from lull.cli import app
from tests.manifests import manifest

RUN = CliRunner()
ENGINE = "llama-3.1-8b-l4"
ROWS = [f"{10 + number * 0.5},{400 + number % 7 * 100},{50 + number % 5 * 40}" for number in range(600)]
TRACE = "\n".join(["timestamp_s,input_tokens,output_tokens", *ROWS])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trace.csv").write_text(TRACE)
    (tmp_path / "lean.yaml").write_text("minReplicas: 0\nmaxReplicas: 4\n")
    (tmp_path / "ample.yaml").write_text(yaml.safe_dump(manifest(scaling={"minReplicas": 3, "maxReplicas": 4})))
    return tmp_path


def simulate(folder: Path, *arguments: str, policies: tuple[str, ...] = ("lean.yaml",), engine: str = ENGINE) -> Result:
    chosen = [part for policy in policies for part in ("--policy", str(folder / policy))]
    return RUN.invoke(app, ["simulate", "--trace", str(folder / "trace.csv"), *chosen, "--engine", engine, *arguments])


def ask(folder: Path, *arguments: str, **more: Any) -> Any:
    result = simulate(folder, "--json", *arguments, **more)
    assert result.exit_code in {0, 3}, result.stderr
    return json.loads(result.stdout)


def test_compares_policies_in_one_table(folder: Path) -> None:
    result = simulate(folder, "--gpu-price", "0.80", policies=("lean.yaml", "ample.yaml"))

    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "600 requests in 5m10s" in lines[0]
    head = next(at for at, line in enumerate(lines) if line.startswith("POLICY"))
    assert "COST" in lines[head]
    assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["lean", "ample"]
    assert "100.00%" in lines[head + 2]
    assert "times real time" in lines[-1]


def test_says_the_same_as_json(folder: Path) -> None:
    said = ask(folder, "--gpu-price", "2", "--cold-start", "20s", policies=("lean.yaml", "ample.yaml"))

    lean, ample = said["policies"]
    assert (said["trace"]["requests"], said["slo"]["ttftSeconds"], said["replica"]["gpus"]) == (600, 3.0, 1)
    assert (lean["policy"], ample["policy"], ample["attainment"]) == ("lean", "ample", 1.0)
    assert lean["requests"] == lean["finished"] == 600
    assert lean["wakes"] == 1
    assert lean["attainment"] < ample["attainment"]
    assert lean["cost"] == pytest.approx(2 * lean["gpuHours"])
    assert lean["changes"][0]["reason"] == "Activated"
    assert ample["scaling"]["minReplicas"] == 3


def test_says_that_sleep_mode_is_not_simulated(folder: Path) -> None:
    (folder / "sleepy.yaml").write_text("minReplicas: 1\nsleep: {level: 1}\n")

    told = simulate(folder, policies=("sleepy.yaml", "ample.yaml")).stdout
    sleepy, ample = ask(folder, policies=("sleepy.yaml", "ample.yaml"))["policies"]

    assert "sleepy: scaling.sleep is not simulated: replicas stay awake, which costs as many GPU-hours" in told
    assert "ample: scaling.sleep" not in told
    assert (sleepy["notSimulated"], ample["notSimulated"]) == (["scaling.sleep"], [])


def test_a_seed_repeats_what_is_random(folder: Path) -> None:
    random = ("--cold-start", "20s-200s", "--spot-lifetime", "3m", "--spot-notice", "30s")

    first = ask(folder, *random, "--seed", "1")

    assert ask(folder, *random, "--seed", "1") == first
    assert ask(folder, *random, "--seed", "2")["policies"] != first["policies"]


def test_the_slo_is_what_is_asked_for(folder: Path) -> None:
    strict = ask(folder, "--slo-ttft", "1ms", "--slo-tpot", "1ms", policies=("ample.yaml",))

    assert strict["policies"][0]["attainment"] == 0
    assert strict["slo"] == {"ttftSeconds": 0.001, "tpotSeconds": 0.001, "attainment": 0.99}


def test_engine_fields_of_the_policy_hold_for_the_engines(folder: Path) -> None:
    (folder / "narrow.yaml").write_text("scaling: {maxReplicas: 1, minReplicas: 1}\nengine: {maxNumSeqs: 2}\n")
    (folder / "wide.yaml").write_text("scaling: {maxReplicas: 1, minReplicas: 1}\n")

    narrow, wide = ask(folder, policies=("narrow.yaml", "wide.yaml"))["policies"]

    assert narrow["ttft"]["p50"] > 10 * wide["ttft"]["p50"]


def test_reads_gzip_and_engines_from_files(folder: Path) -> None:
    (folder / "engine.yaml").write_text(f"preset: {ENGINE}\ngpus: 2\n")
    plain = ask(folder)
    (folder / "trace.csv").write_bytes(gzip.compress(TRACE.encode()))

    packed = ask(folder, engine=str(folder / "engine.yaml"))

    assert packed["policies"][0]["attainment"] == plain["policies"][0]["attainment"]
    assert packed["policies"][0]["gpuHours"] == pytest.approx(2 * plain["policies"][0]["gpuHours"])


def test_tunes_a_policy_and_says_what_it_tried(folder: Path) -> None:
    result = simulate(folder, "--tune", "--attainment", "100", "--tries", "12", policies=("ample.yaml",))

    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines()[0].startswith(
        "* inFlight default, minReplicas 3, scale-down window default: 100.00%"
    )
    assert "The cheapest of " in result.stdout
    text = result.stdout
    found = yaml.safe_load(text[text.index("scaling:") : text.index("Simulated")])
    assert found["scaling"]["minReplicas"] < 3
    said = ask(folder, "--tune", "--attainment", "100", "--tries", "12", policies=("ample.yaml",))
    assert len(said["trials"]) <= 12
    given, tuned = said["policies"]
    assert tuned["gpuHours"] < given["gpuHours"]
    assert tuned["isMet"]


def test_fails_where_no_policy_meets_the_slo(folder: Path) -> None:
    result = simulate(folder, "--tune", "--slo-ttft", "1ms", "--tries", "3")

    assert result.exit_code == 3
    assert "None of 3 policies meets the SLO for 99 % of the requests; the best:" in result.stdout


def test_draws_what_happened(folder: Path) -> None:
    out = folder / "out.svg"

    result = simulate(folder, "--plot", str(out), policies=("lean.yaml", "ample.yaml"))

    assert result.exit_code == 0, result.stderr
    assert ET.parse(out).getroot().tag.endswith("svg")
    assert "lean: " in out.read_text()


def test_draws_png_with_matplotlib(folder: Path) -> None:
    out = folder / "out.png"

    result = simulate(folder, "--plot", str(out))

    assert result.exit_code == 0, result.stderr
    assert out.read_bytes().startswith(b"\x89PNG")


def test_says_what_to_do_without_matplotlib(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "lull.cli.png", raising=False)

    result = simulate(folder, "--plot", str(folder / "out.png"))

    assert result.exit_code == 1
    assert "needs matplotlib, which is not installed; a name in .svg needs nothing" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cold-start", "soon"), "--cold-start: 'soon' is no duration: write for example 90s"),
        (("--cold-start", "90s-30s"), "--cold-start: 90s-30s must be a shorter and a longer time, as in 80s-140s"),
        (("--slo-ttft", "0s"), "--slo-ttft: 0s must be more than 0"),
        (("--spot-lifetime", "x"), "--spot-lifetime: 'x' is no duration"),
        (("--plot", "out.gif"), "--plot out.gif: name a file that ends in .svg or .png"),
        (("--plot", "nowhere/out.svg"), "--plot nowhere/out.svg: there is no folder nowhere"),
        (("--trace", "missing.csv"), "missing.csv: No such file or directory"),
        (("--engine", "gpt-9"), "--engine gpt-9: there is no preset gpt-9: "),
        (("--engine", "missing.yaml"), "missing.yaml: No such file or directory"),
        (("--policy", "missing.yaml"), "missing.yaml: No such file or directory"),
    ],
)
def test_says_what_is_wrong(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    result = simulate(folder, *arguments)

    assert result.exit_code == 1
    assert result.stderr.startswith("lull simulate: ")
    assert said in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "trace.csv",
            "timestamp_s,input_tokens,output_tokens\n0,1,1\n1,x,1\n",
            "trace.csv: line 3: input_tokens is 'x'",
        ),
        ("trace.csv", "\x1f\x8bno", "trace.csv: "),
        ("lean.yaml", "minReplica: 1\n", "lean.yaml:1: error: spec.scaling.minReplica: is no field"),
    ],
)
def test_says_which_line_is_wrong(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))

    result = simulate(folder)

    assert result.exit_code == 1
    assert said in result.stderr


def test_tunes_one_policy_that_lull_scales(folder: Path) -> None:
    (folder / "manual.yaml").write_text("{replicas: 2, scaling: {}}")

    several = simulate(folder, "--tune", policies=("lean.yaml", "ample.yaml"))
    manual = simulate(folder, "--tune", policies=("manual.yaml",))

    assert "--tune starts from one policy" in several.stderr
    assert "spec.replicas is set, so there is nothing to tune" in manual.stderr
    assert several.exit_code == manual.exit_code == 1


def test_help_loads_nothing_of_the_simulation() -> None:
    code = (
        "import sys; from lull.cli import app\n"
        "try: app(['simulate', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith(('lull.core', 'lull.api', 'rich'))])"
    )

    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "--policy" in output
    assert output.splitlines()[-1] == "[]"


def test_the_slo_is_the_policys_where_nothing_else_is_asked_for(folder: Path) -> None:
    (folder / "strict.yaml").write_text(
        "scaling: {minReplicas: 3}\nslo: {timeToFirstToken: 1s, timePerOutputToken: 80ms, percentile: 90}\n"
    )

    said = ask(folder, "--slo-tpot", "70ms", policies=("strict.yaml",))
    both = simulate(folder, policies=("strict.yaml", "lean.yaml"))

    assert said["slo"] == {"ttftSeconds": 1.0, "tpotSeconds": 0.07, "attainment": 0.9}
    assert both.exit_code == 1
    assert "the policies differ in spec.slo: say what to measure by, --slo-ttft and --slo-tpot" in both.stderr


def test_a_budget_needs_a_price(folder: Path) -> None:
    (folder / "frugal.yaml").write_text("{minReplicas: 1, budget: {perHour: '2'}}")

    unknown = simulate(folder, policies=("frugal.yaml",))
    known = ask(folder, "--gpu-price", "0.8", policies=("frugal.yaml",))

    assert "give --gpu-price" in unknown.stderr
    assert known["policies"][0]["mostReplicas"] <= 2
