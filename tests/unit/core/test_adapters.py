"""From wanted to loaded, one step after another, whatever restarts on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lull.api import names
from lull.api.llmdeployment import Manifest
from lull.api.status import AdapterState
from lull.core.adapters import (
    MAX_TRIES,
    Adapter,
    Fetch,
    Forget,
    Holding,
    Load,
    Move,
    Replica,
    Setback,
    ShelfState,
    Shelved,
    Unload,
    assess,
    parse_loaded,
    parse_replicas,
    parse_shelf,
    place,
    plan_adapters,
    record_refusal,
    view_adapter,
)

FR = Adapter("support-fr", "s3://bucket/fr")
DE = Adapter("support-de", "s3://bucket/de")


@dataclass
class World:
    """A replica that does what it is told, as far as the adapter allows."""

    pods: int = 1
    shelves: list[dict[str, Shelved]] = field(init=False)
    loaded: dict[str, str] = field(default_factory=dict)
    unfit: frozenset[str] = frozenset()
    """Ids that the sidecar finds wrong."""
    refused: frozenset[str] = frozenset()
    """Ids that the engine finds wrong."""
    setbacks: dict[str, Setback] = field(default_factory=dict)
    asked: list[Move] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shelves = [{} for _ in range(self.pods)]

    @property
    def holding(self) -> Holding:
        return Holding(tuple(self.shelves), self.loaded)

    def step(self, wanted: tuple[Adapter, ...], now: float = 0.0) -> tuple[Move, ...]:
        moves = plan_adapters(wanted, self.holding, self.setbacks, now=now)
        for move in moves:
            self._carry_out(move, now)
        self.asked += moves
        return moves

    def settle(self, wanted: tuple[Adapter, ...]) -> None:
        for _ in range(10):
            if not self.step(wanted):
                return
        raise AssertionError(f"it goes on and on: {self.asked[-3:]}")

    def _carry_out(self, move: Move, now: float) -> None:
        match move:
            case Fetch(shelf, adapter):
                state = ShelfState.FAILED if adapter.id in self.unfit else ShelfState.READY
                self.shelves[shelf][adapter.id] = Shelved(state, "", f"/adapters/{adapter.id}")
            case Forget(shelf, identity):
                del self.shelves[shelf][identity]
            case Unload(name):
                del self.loaded[name]
            case Load(adapter, path, in_place):
                assert in_place == (adapter.name in self.loaded)
                if adapter.id in self.refused:
                    known = self.setbacks.get(adapter.id)
                    setback = record_refusal(
                        known, 500, error("LoRA rank 64 is greater than max_lora_rank 16."), now=now
                    )
                    assert setback is not None
                    self.setbacks[adapter.id] = setback
                else:
                    self.loaded[adapter.name] = path


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": 500}}).encode()


def replica(name: str = "pod-1", *, ready: bool = True) -> Replica:
    return Replica(f"uid-{name}", name, 0, ready, "http://engine", ("http://shelf",))


def test_every_replica_is_to_have_every_adapter() -> None:
    assert place((FR, DE), (replica("a"), replica("b"))) == {"uid-a": (FR, DE), "uid-b": (FR, DE)}


def test_an_adapter_is_fetched_then_loaded_and_then_left_alone() -> None:
    world = World()

    assert world.step((FR,)) == (Fetch(0, FR),)
    assert world.step((FR,)) == (Load(FR, f"/adapters/{FR.id}", in_place=False),)
    assert world.step((FR,)) == ()


def test_files_go_only_after_the_engine_let_go_of_the_adapter() -> None:
    world = World()
    world.settle((FR, DE))

    assert world.step((DE,)) == (Unload(FR.name),)
    assert world.step((DE,)) == (Forget(0, FR.id),)
    assert world.step((DE,)) == ()


def test_another_source_takes_the_place_of_the_first_without_a_gap() -> None:
    world = World()
    world.settle((FR,))
    moved = Adapter(FR.name, "s3://bucket/fr-2")

    assert world.step((moved,)) == (Fetch(0, moved),)
    assert world.loaded[FR.name].endswith(FR.id)
    assert world.step((moved,)) == (Load(moved, f"/adapters/{moved.id}", in_place=True),)
    assert world.step((moved,)) == (Forget(0, FR.id),)


def test_an_engine_that_restarted_is_given_everything_again_and_nothing_is_fetched() -> None:
    world = World()
    world.settle((FR, DE))

    world.loaded.clear()

    assert [type(move) for move in world.step((FR, DE))] == [Load, Load]


def test_every_pod_of_a_replica_has_the_files_before_the_engine_is_asked() -> None:
    world = World(pods=2)

    assert world.step((FR,)) == (Fetch(0, FR), Fetch(1, FR))
    del world.shelves[1][FR.id]
    assert world.step((FR,)) == (Fetch(1, FR),)
    assert [type(move) for move in world.step((FR,))] == [Load]


def test_what_does_not_answer_is_told_nothing() -> None:
    fetched = {FR.id: Shelved(ShelfState.READY, "", "/adapters/x")}

    assert plan_adapters((FR,), Holding((None,), {}), {}, now=0.0) == ()
    assert plan_adapters((FR,), Holding((fetched,), None), {}, now=0.0) == ()
    assert plan_adapters((), Holding((fetched,), None), {}, now=0.0) == ()


def test_what_cannot_be_served_is_asked_for_once_and_keeps_nobody_else() -> None:
    world = World(unfit=frozenset({FR.id}), refused=frozenset({DE.id}))
    third = Adapter("third", "hf://a/b")

    world.settle((FR, DE, third))

    assert set(world.loaded) == {"third"}
    assert sum(isinstance(move, Load) and move.adapter == DE for move in world.asked) == 1
    assert assess(FR, world.holding, None)[0] is AdapterState.FAILED
    assert assess(DE, world.holding, world.setbacks[DE.id]) == (
        AdapterState.FAILED,
        "Its rank 64 is over spec.adapters.maxRank, 16: raise that, or train it with a lower rank.",
    )


def test_trouble_that_may_pass_is_tried_again_with_pauses_and_not_for_ever() -> None:
    setback, now, pauses = None, 0.0, []

    while setback is None or not setback.is_final:
        setback = record_refusal(setback, 500, error("CUDA out of memory"), now=now)
        assert setback is not None
        pauses.append(setback.until - now)
        now = setback.until

    assert setback.tries == MAX_TRIES
    assert pauses == sorted(pauses)
    assert "CUDA out of memory" in setback.message


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (500, "Worker failed: LoRA rank 64 is greater than max_lora_rank 16.", "maxRank, 16"),
        (
            500,
            "While loading /a, expected target modules in {'q'} but received ['layers.0.nope_proj', 'layers.1.nope_proj'].",
            "modules that the model lacks (nope_proj)",
        ),
        (
            500,
            "The size of tensor a (128) must match the size of tensor b (256) at non-singleton dimension 1",
            "256 where 128 is right",
        ),
        (400, "The lora adapter 'x' conflicts with a served base model.", "give the adapter another one"),
        (404, "Not Found", "no endpoint to load adapters"),
        (400, "Both 'lora_name' and 'lora_path' must be provided.", "Both 'lora_name'"),
    ],
)
def test_refusals_for_good_become_sentences(status: int, message: str, words: str) -> None:
    setback = record_refusal(None, status, error(message), now=0.0)

    assert setback is not None
    assert setback.is_final
    assert words in setback.message


def test_an_adapter_that_is_loaded_already_is_as_good_as_loaded() -> None:
    message = "The lora adapter 'x' has already been loaded. If you want to load the adapter in place, set …"

    assert record_refusal(None, 400, error(message), now=0.0) is None
    assert record_refusal(None, 200, b"Success: LoRA adapter 'x' added successfully.", now=0.0) is None


def test_files_that_an_engine_does_not_find_may_come() -> None:
    setback = record_refusal(None, 404, error("Loading lora x failed: No adapter found for /adapters/x"), now=0.0)

    assert setback is not None
    assert not setback.is_final


class TestView:
    def test_tells_of_the_replica_that_is_furthest_behind(self) -> None:
        view = view_adapter(
            "x", [(replica("a"), AdapterState.READY, ""), (replica("b"), AdapterState.FAILED, "It is torn.")]
        )

        assert (view.state, view.ready_replicas, view.message) == (AdapterState.FAILED, 1, "b: It is torn.")

    def test_a_replica_that_starts_does_not_count_beside_ready_ones(self) -> None:
        findings = [(replica("a"), AdapterState.READY, "note"), (replica("b", ready=False), AdapterState.FETCHING, "")]

        view = view_adapter("x", findings)

        assert (view.state, view.ready_replicas, view.message) == (AdapterState.READY, 1, "note")

    def test_with_nothing_running_it_is_pending(self) -> None:
        assert view_adapter("x", []).state is AdapterState.PENDING

    def test_failing_to_fetch_is_told_before_the_engine_is_ready(self) -> None:
        view = view_adapter("x", [(replica("a", ready=False), AdapterState.FAILED, "not found")])

        assert (view.state, view.message) == (AdapterState.FAILED, "not found")

    def test_how_far_it_is_follows_where_it_is(self) -> None:
        fetching = {FR.id: Shelved(ShelfState.FETCHING, "slow", "")}
        ready = {FR.id: Shelved(ShelfState.READY, "odd", f"/adapters/{FR.id}")}

        assert assess(FR, None, None)[0] is AdapterState.PENDING
        assert assess(FR, Holding((None,), {}), None)[0] is AdapterState.PENDING
        assert assess(FR, Holding((fetching,), {}), None) == (AdapterState.FETCHING, "slow")
        assert assess(FR, Holding((ready,), {}), None)[0] is AdapterState.LOADING
        assert assess(FR, Holding((ready,), {FR.name: f"/adapters/{FR.id}"}), None) == (AdapterState.READY, "odd")
        assert assess(FR, Holding((None,), {FR.name: f"/adapters/{FR.id}"}), None)[0] is AdapterState.READY
        assert assess(FR, Holding((ready,), {FR.name: "/adapters/other"}), None)[0] is AdapterState.LOADING


class TestParsing:
    def test_reads_what_vllm_lists(self) -> None:
        cards = [
            {"id": "tiny", "root": "/models/model", "parent": None},
            {"id": "lora-a", "root": "/adapters/lora-a-1", "parent": "tiny"},
        ]

        assert parse_loaded(json.dumps({"object": "list", "data": cards}).encode()) == {"lora-a": "/adapters/lora-a-1"}

    @pytest.mark.parametrize(
        "content", [b"", b"[]", b"{}", b'{"data": [1]}', b'{"adapters": [{}]}', b'{"adapters": 3}']
    )
    def test_what_is_no_list_is_said_to_be_none(self, content: bytes) -> None:
        with pytest.raises(ValueError):
            parse_loaded(content)
        with pytest.raises(ValueError):
            parse_shelf(content)

    def test_a_replica_is_its_leader_with_the_pods_of_its_group(self) -> None:
        pods = [
            pod("m-0", group="g0"),
            pod("m-0-1", group="g0", component=names.COMPONENT_WORKER, address="10.0.0.2"),
            pod("m-1-1", group="g1", component=names.COMPONENT_WORKER, address="10.0.0.3"),
            pod("gone", group="g2", deleting=True),
            {**(evicted := pod("evicted")), "status": {**evicted["status"], "phase": "Failed"}},
            pod("new", group="g3", address=None),
        ]

        (found,) = parse_replicas(pods)

        assert found == Replica(
            "m-0", "m-0", 2, True, "http://10.0.0.1:8000", ("http://10.0.0.1:9002", "http://10.0.0.2:9002")
        )

    def test_pods_without_a_group_are_replicas_each(self) -> None:
        found = parse_replicas([pod("b"), pod("a", address="fd00::1")])

        assert [one.pod for one in found] == ["a", "b"]
        assert found[0].shelves == ("http://[fd00::1]:9002",)


def test_names_of_folders_are_harmless_and_differ_by_name_and_source() -> None:
    one, other = Adapter("Team/../A:b", "s3://x/y"), Adapter("team-a-b", "s3://x/y")

    assert one.id.startswith("team-a-b-")
    assert len({one.id, other.id, Adapter(one.name, "s3://x/z").id}) == 3


adapters = st.builds(Adapter, st.sampled_from("abc"), st.sampled_from(("s3://b/1", "s3://b/2")))
lists = st.lists(adapters, max_size=3, unique_by=lambda adapter: adapter.name).map(tuple)


@given(st.lists(st.tuples(lists, st.sampled_from(("", "engine", "sidecar"))), max_size=8), lists)
def test_any_list_after_any_list_ends_with_exactly_what_is_wanted(
    history: list[tuple[tuple[Adapter, ...], str]], last: tuple[Adapter, ...]
) -> None:
    world = World(pods=2)
    for wanted, restarted in history:
        world.step(wanted)
        if restarted == "engine":
            world.loaded.clear()
        if restarted == "sidecar":
            world.shelves[0].clear()

    world.settle(last)

    assert {name: path.rpartition("/")[2] for name, path in world.loaded.items()} == {one.name: one.id for one in last}
    assert all(set(shelf) == {one.id for one in last} for shelf in world.shelves)


def pod(
    name: str,
    *,
    group: str | None = None,
    component: str = names.COMPONENT_ENGINE,
    address: str | None = "10.0.0.1",
    deleting: bool = False,
) -> Manifest:
    labels = {names.LABEL_COMPONENT: component}
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "labels": {**labels, **({"leaderworkerset.sigs.k8s.io/group-key": group} if group else {})},
            **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {}),
        },
        "spec": {
            "initContainers": [{"name": "adapters", "ports": [{"name": "adapters", "containerPort": 9002}]}],
            "containers": [{"name": "engine"}],
        },
        "status": {
            **({"podIP": address} if address else {}),
            "containerStatuses": [{"restartCount": 2}],
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ],
        },
    }
