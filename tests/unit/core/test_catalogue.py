from __future__ import annotations

from lull.api.llmdeployment import Key, LLMDeployment, parse_llmdeployment
from lull.core.catalogue import build_catalogue


def deployment(
    name: str,
    *,
    namespace: str = "team-a",
    created: str = "2026-01-01T00:00:00Z",
    aliases: tuple[str, ...] = (),
    adapters: tuple[str, ...] = (),
) -> LLMDeployment:
    items = [{"name": adapter, "source": f"hf://org/{adapter}"} for adapter in adapters]
    return parse_llmdeployment(
        {
            "metadata": {"namespace": namespace, "name": name, "creationTimestamp": created},
            "spec": {
                "model": {"source": "hf://org/model", "aliases": list(aliases)},
                **({"adapters": {"items": items}} if adapters else {}),
            },
        }
    )


def test_every_served_name_leads_to_its_deployment() -> None:
    catalogue = build_catalogue([deployment("llama", aliases=("llama-8b", "default"))])

    assert catalogue.names == dict.fromkeys(("llama", "llama-8b", "default"), Key("team-a", "llama"))
    assert catalogue.find("default") == deployment("llama", aliases=("llama-8b", "default"))
    assert catalogue.find("other") is None


def test_the_oldest_claim_wins_whatever_the_order() -> None:
    old = deployment("zebra", created="2026-01-01T00:00:00Z", aliases=("shared",))
    young = deployment("ant", created="2026-01-02T00:00:00Z", aliases=("shared",))

    for order in ([old, young], [young, old]):
        catalogue = build_catalogue(order)
        assert catalogue.names["shared"] == old.key
        assert catalogue.conflicts == {young.key: '"shared" is already served by team-a/zebra'}


def test_equal_age_is_settled_by_namespace_and_name() -> None:
    first = deployment("same", namespace="a")
    second = deployment("same", namespace="b")

    catalogue = build_catalogue([second, first])

    assert catalogue.names["same"] == first.key
    assert second.key not in catalogue.deployments


def test_the_loser_of_one_name_keeps_its_others() -> None:
    old = deployment("old", aliases=("shared",))
    young = deployment("young", created="2026-02-01T00:00:00Z", aliases=("shared",))

    assert build_catalogue([old, young]).names["young"] == young.key


def test_one_that_is_being_deleted_frees_its_names() -> None:
    leaving = parse_llmdeployment(
        {
            "metadata": {"namespace": "a", "name": "m", "deletionTimestamp": "2026-01-02T00:00:00Z"},
            "spec": {"model": {"source": "hf://org/model"}},
        }
    )
    successor = deployment("m", namespace="b", created="2026-03-01T00:00:00Z")

    catalogue = build_catalogue([leaving, successor])

    assert catalogue.names["m"] == successor.key
    assert catalogue.conflicts == {}


def test_an_adapter_is_a_name_of_its_own() -> None:
    catalogue = build_catalogue([deployment("llama", adapters=("fr", "de"))])

    assert catalogue.names == dict.fromkeys(("llama", "fr", "de"), Key("team-a", "llama"))
    assert {name: item.source for name, item in catalogue.adapters.items()} == {
        "fr": "hf://org/fr",
        "de": "hf://org/de",
    }


def test_an_adapter_whose_name_is_anothers_is_lost_alone() -> None:
    old = deployment("old", aliases=("fr",), adapters=("de",))
    young = deployment("young", created="2026-02-01T00:00:00Z", adapters=("fr", "it", "de"))

    catalogue = build_catalogue([young, old])

    assert catalogue.names["fr"] == old.key
    assert "fr" not in catalogue.adapters
    assert catalogue.names["young"] == catalogue.names["it"] == young.key
    assert catalogue.adapter_conflicts == {
        young.key: {
            "fr": '"fr" is already served by team-a/old',
            "de": '"de" is already served by team-a/old',
        }
    }
    assert catalogue.conflicts == {}


def test_a_model_whose_name_is_an_older_ones_adapter_loses_it() -> None:
    old = deployment("old", adapters=("fr",))
    young = deployment("fr", created="2026-02-01T00:00:00Z", adapters=("it",))

    catalogue = build_catalogue([young, old])

    assert catalogue.conflicts == {young.key: '"fr" is already served by team-a/old'}
    assert catalogue.names["it"] == young.key
