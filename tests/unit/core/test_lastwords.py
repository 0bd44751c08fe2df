from __future__ import annotations

import json
from typing import Any

from lull.api.llmdeployment import Manifest
from lull.core.manifests import build
from lull.core.manifests.lastwords import ANNOTATION
from tests.manifests import SETTINGS, manifest, stored


def _template(**engine: Any) -> Manifest:
    children = build(stored(manifest(engine=engine)), SETTINGS)
    template: Manifest = next(child for child in children if child["kind"] == "Deployment")["spec"]["template"]
    return template


def _variables(template: Manifest) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in template["spec"]["containers"][0]["env"]}


def test_vllm_writes_its_errors_where_kubernetes_reads_why_a_container_ended() -> None:
    template = _template()

    engine = template["spec"]["containers"][0]
    configuration = json.loads(template["metadata"]["annotations"][ANNOTATION])
    mount = next(mount for mount in engine["volumeMounts"] if mount["name"] == "logging")
    volume = next(volume for volume in template["spec"]["volumes"] if volume["name"] == "logging")
    (item,) = volume["downwardAPI"]["items"]
    assert configuration["handlers"]["last"]["filename"] == engine.get("terminationMessagePath", "/dev/termination-log")
    assert configuration["handlers"]["last"]["level"] == "ERROR"
    assert _variables(template)["VLLM_LOGGING_CONFIG_PATH"] == f"{mount['mountPath']}/{item['path']}"
    assert item["fieldRef"]["fieldPath"] == f"metadata.annotations['{ANNOTATION}']"


def test_the_level_that_a_user_asks_for_stays() -> None:
    template = _template(env=[{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}])

    configuration = json.loads(template["metadata"]["annotations"][ANNOTATION])
    assert configuration["handlers"]["vllm"]["level"] == "DEBUG"
    assert configuration["loggers"]["vllm"]["level"] == "DEBUG"


def test_whoever_switches_logging_off_gets_no_configuration_which_vllm_would_refuse() -> None:
    template = _template(env=[{"name": "VLLM_CONFIGURE_LOGGING", "value": "0"}])

    assert "VLLM_LOGGING_CONFIG_PATH" not in _variables(template)
    assert "annotations" not in template["metadata"]
    assert all(volume["name"] != "logging" for volume in template["spec"]["volumes"])
