from __future__ import annotations

import json

import pytest

from lull.core.simulation.policies import InvalidPolicy, parse_policy
from tests.manifests import manifest


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(manifest(scaling={"minReplicas": 2})),
        "scaling:\n  minReplicas: 2\n",
        "---\nscaling: {minReplicas: 2}\n",
        "minReplicas: 2\n",
        "# two\nminReplicas: 2",
        "{minReplicas: 2}",
    ],
)
def test_takes_a_manifest_or_its_part_about_scaling(text: str) -> None:
    assert parse_policy(text, file="p.yaml").scaling.min_replicas == 2


def test_takes_other_parts_of_a_spec_beside_scaling() -> None:
    spec = parse_policy("scaling: {minReplicas: 2}\nqueue: {maxHeld: 7}\nengine: {maxNumSeqs: 64}\n", file="p.yaml")

    assert (spec.scaling.min_replicas, spec.queue.max_held, spec.engine.max_num_seqs) == (2, 7, 64)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "p.yaml: is empty"),
        ("minReplicas: 2\nmaxReplica: 3\n", "p.yaml:2: error: spec.scaling.maxReplica: is no field"),
        ("scaling:\n  minReplicas: two\n", "p.yaml:2: error: spec.scaling.minReplicas"),
        ("minReplicas: 9\n", "minReplicas must not be greater than maxReplicas"),
        (
            "schedules:\n- {cron: '99 * * * *', duration: 1h, minReplicas: 1}\n",
            "schedules.0.cron: '99 * * * *' is no time",
        ),
        ("a: [", "is no YAML"),
        ("- 1\n", "holds no LLMDeployment"),
        ("\n---\n".join(json.dumps(manifest(name=name)) for name in "ab"), "holds several LLMDeployments (a, b)"),
    ],
)
def test_says_where_a_policy_is_wrong(text: str, said: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        parse_policy(text, file="p.yaml")

    assert said in str(caught.value)
