"""Which provider is taken."""

from dataclasses import replace

import pytest

from e2e.cluster.choosing import Surroundings, choose
from e2e.cluster.model import ClusterError, Provider

BARE = Surroundings(provider=None, kubeconfig=None, local_exists=False, kind_available=False, linux=True)


@pytest.mark.parametrize(
    ("surroundings", "provider"),
    [
        (BARE, Provider.LOCAL),
        (replace(BARE, kind_available=True), Provider.KIND),
        (replace(BARE, kind_available=True, local_exists=True), Provider.LOCAL),
        (replace(BARE, kubeconfig="k", local_exists=True), Provider.EXISTING),
        (replace(BARE, kubeconfig="k", provider="kind"), Provider.KIND),
    ],
)
def test_takes_what_is_named_then_what_is_up_then_what_is_there(surroundings: Surroundings, provider: Provider) -> None:
    assert choose(surroundings) is provider


def test_refuses_a_provider_that_does_not_exist() -> None:
    with pytest.raises(ClusterError, match="existing, kind, local"):
        choose(replace(BARE, provider="minikube"))


def test_says_what_to_install_where_nothing_can_be_made() -> None:
    with pytest.raises(ClusterError, match="install kind"):
        choose(replace(BARE, linux=False))
