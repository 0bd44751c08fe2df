"""The file of a gateway without Kubernetes: what it means, and what is said of one that is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lull.api.llmdeployment import Key
from lull.api.quantities import DURATION_PATTERN
from lull.cli import app
from lull.core.admission import build_limits
from lull.core.documents import render_finding
from lull.core.keys import digest_of
from lull.core.routing import slots
from lull.gateway.config import InvalidConfig, load_config, parse_config

FILE = """\
port: 9000
drainSeconds: 5
models:
- name: llama
  aliases: [chat]
  endpoints: [http://127.0.0.1:8000, "http://[::1]:8001", http://gpu-1]
  adapters: [sql, poems]
  maxNumSeqs: 16
  queue: {maxHeld: 10, holdFor: 2m}
- name: org/embedder-v1.5
  endpoints: [http://127.0.0.1:8002]
  slo: {timeToFirstToken: 2s}
"""


def findings(text: str) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        parse_config(text)
    return [render_finding("f", finding) for finding in caught.value.findings]


def test_a_model_is_what_its_llmdeployment_would_be() -> None:
    model, other = (one.deployment for one in parse_config(FILE).models)

    assert model.key == Key("standalone", "llama")
    assert model.served_names == ("llama", "chat")
    assert model.adapter_names == ("sql", "poems")
    assert slots(model) == 32
    assert (build_limits(model).max_held, build_limits(model).hold_seconds) == (10, 120)
    assert (build_limits(other).slo_first_token, build_limits(other).slo_per_token) == (2, 0.1)


def test_an_engine_is_a_host_and_a_port() -> None:
    llama, embedder = parse_config(FILE).models

    assert [(one.host, one.port) for one in llama.addresses] == [("127.0.0.1", 8000), ("::1", 8001), ("gpu-1", 80)]
    assert embedder.deployment.served_names == ("org/embedder-v1.5",)


def test_settings_may_stand_in_the_file() -> None:
    settings = parse_config(FILE).settings

    assert (settings.port, settings.drain_seconds) == (9000, 5)


def test_off_is_a_word() -> None:
    assert parse_config("models: []\naccessLog: off\n").settings.access_log == "off"


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LULL_PORT", "9001")

    settings = parse_config(FILE).settings

    assert (settings.port, settings.drain_seconds) == (9001, 5)


def test_keys_are_asked_for_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "llmk_team-a_0123456789abcdefghijkl"
    keys = f"keys:\n  entries:\n    team-a: {{sha256: {digest_of(token)}, models: [llama], expires: 2027-01-01T00:00:00Z}}\n"

    config = parse_config(FILE + keys)
    key = config.keyring.find(b"Bearer " + token.encode(), now=0)

    assert key is not None
    assert (key.id, key.models) == ("team-a", frozenset({"llama"}))
    assert config.settings.keys_required
    assert not parse_config(FILE).settings.keys_required
    assert not parse_config(FILE + keys + "  required: false\n").settings.keys_required
    monkeypatch.setenv("LULL_KEYS_REQUIRED", "false")
    assert not parse_config(FILE + keys).settings.keys_required


def test_how_requests_are_treated_is_said_as_in_a_spec() -> None:
    text = FILE.replace(
        "  queue:",
        "  requests: {continueStreams: true}\n  routes: [{model: org/embedder-v1.5, maxPromptTokens: 100}]\n  queue:",
    )

    spec = parse_config(text).models[0].deployment.spec

    assert spec.requests.continue_streams
    assert [(route.model, route.max_prompt_tokens) for route in spec.routes] == [("org/embedder-v1.5", 100)]


def test_a_model_that_is_different_has_another_generation() -> None:
    first, again = parse_config(FILE).models[0], parse_config(FILE + "# a word\n").models[0]
    other = parse_config(FILE.replace("[sql, poems]", "[sql]")).models[0]

    assert first == again
    assert first.deployment.generation != other.deployment.generation


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: []\nport: a: b", "f:2: error: is no YAML: mapping values are not allowed in this context"),
        ("", "f:1: error: models is missing"),
        ("- models", "f:1: error: is not a mapping with `models`"),
        ("models: []\n---\nmodels: []", "f:3: error: one document is a whole file"),
        ("models: []\nprot: 8080", "f:2: error: prot: is not known here"),
        ("models: []\nnamespace: x", "f:2: error: namespace: is not known here"),
        ("models: []\nmodels: []", "f:2: error: models: stands twice; only the last one counts"),
        (
            "models: []\nport: many",
            "f:2: error: port: Input should be a valid integer, unable to parse string as an integer",
        ),
        ("models:\n- endpoints: [http://a]", "f:2: error: models[0]: name is missing"),
        (
            "models:\n- name: a\n  endpoints:\n  - http://a\n  - https://b",
            "f:5: error: models[0].endpoints[1]: engines are reached without TLS: write http://",
        ),
        (
            "models:\n- name: a\n  endpoints: [http://a:8000/v1]",
            "f:3: error: models[0].endpoints[0]: write http://host:port, without a path: Lull appends the client's",
        ),
        (
            "models:\n- name: a\n  endpoints: [http://a:99999]",
            "f:3: error: models[0].endpoints[0]: is no address: Port out of range 0-65535",
        ),
        (
            "models:\n- name: a\n  endpoints: [http://a, http://a/]",
            "f:3: error: models[0].endpoints: http://a stands twice",
        ),
        (
            "models:\n- name: a\n  endpoints: [http://a]\n- name: b\n  aliases: [a]\n  endpoints: [http://b]",
            'f:5: error: models[1].aliases: "a" is already a name of a',
        ),
        (
            "models:\n- name: a\n  endpoints: [http://a]\n  fallback: [b]",
            'f:4: error: models[0].fallback: "b" is no model of this file',
        ),
        (
            "models:\n- name: a\n  endpoints: [http://a]\n  fallback: [a]",
            (
                "f:2: error: models[0]: model: fallback must name other models, none of this one's names, aliases "
                "and adapters"
            ),
        ),
        (
            "models: []\nkeys:\n  entries:\n    team-a: {sha256: x}",
            "f:4: error: keys.entries.team-a.sha256: String should match pattern '^[0-9a-f]{64}$'",
        ),
        (
            "models: []\nkeys: {required: maybe}",
            "f:2: error: keys.required: Input should be a valid boolean, unable to interpret input",
        ),
        (
            "models:\n- name: a\n  endpoints: [http://a]\n  queue:\n    maxheld: 3",
            "f:5: error: models[0].queue.maxheld: is not known here",
        ),
    ],
)
def test_what_is_wrong_is_said_by_line(text: str, said: str) -> None:
    assert findings(text) == [said]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert findings("port: 0\nmodels:\n- name: a b\n  endpoints: []\n  queue: {holdFor: soon}\n") == [
        "f:1: error: port: Input should be greater than or equal to 1",
        "f:3: error: models[0].name: String should match pattern '^[A-Za-z0-9]([A-Za-z0-9._/:-]*[A-Za-z0-9])?$'",
        "f:4: error: models[0].endpoints: List should have at least 1 item after validation, not 0",
        f"f:5: error: models[0].queue.holdFor: Input should be 'Auto', or String should match pattern '{DURATION_PATTERN}'",
    ]


def test_a_wrong_variable_is_told_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LULL_PORT", "x")

    assert findings("models: []") == [
        "f:1: error: LULL_PORT: Input should be a valid integer, unable to parse string as an integer"
    ]


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="No such file"):
        load_config(tmp_path / "none.yaml")


def test_a_file_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lull.gateway.config.MAX_BYTES", 10)
    (tmp_path / "large.yaml").write_text("models: []\n")

    with pytest.raises(InvalidConfig, match="has more than 10 bytes"):
        load_config(tmp_path / "large.yaml")


def test_what_only_a_cluster_needs_costs_no_time_at_the_start() -> None:
    code = (
        "import sys, lull.cli.gateway; print(*sorted({'kubernetes', 'httpx', 'valkey', 'kopf'} & sys.modules.keys()))"
    )

    done = subprocess.run((sys.executable, "-c", code), capture_output=True, check=True, text=True)

    assert done.stdout.split() == []


def test_the_example_of_the_manual_is_right() -> None:
    page = (Path(__file__).parents[3] / "docs" / "standalone.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)

    config = parse_config(example)

    assert [model.deployment.key.name for model in config.models] == ["llama", "small"]
    assert config.keyring.ids == {"team-a"}


def test_check_says_what_is_served(tmp_path: Path) -> None:
    (tmp_path / "lull.yaml").write_text(FILE)

    result = CliRunner().invoke(app, ["gateway", "--config", str(tmp_path / "lull.yaml"), "--check"])

    assert (result.exit_code, result.output) == (0, f"{tmp_path}/lull.yaml: 2 models on 4 engines, 0 keys\n")


def test_check_fails_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "lull.yaml").write_text(FILE + "key: 1\n")

    result = CliRunner().invoke(app, ["gateway", "--config", str(tmp_path / "lull.yaml"), "--check"])

    assert result.exit_code == 1
    assert f"{tmp_path}/lull.yaml:13: error: key: is not known here" in result.output
