"""The model of the batch, in virtual time."""

from hypothesis import given
from hypothesis import strategies as st

from images.enginesim.engine import Engine, Finish, Request, Speed, Token

_SPEED = Speed(prefill_tps=100, decode_tps=10, max_num_seqs=2, kv_tokens=1000)


def _run(engine: Engine) -> list[Token]:
    tokens: list[Token] = []
    while (at := engine.next_at()) is not None:
        tokens += engine.advance(at)
    return tokens


def test_reads_the_prompt_then_writes_a_token_at_each_step() -> None:
    engine = Engine(_SPEED)

    engine.submit(Request("a", prompt_tokens=50, max_tokens=3), now=10.0)

    assert [(round(token.at, 6), token.index, token.finish) for token in _run(engine)] == [
        (10.5, 0, None),
        (10.6, 1, None),
        (10.7, 2, Finish.LENGTH),
    ]


def test_reads_prompts_one_after_another() -> None:
    engine = Engine(_SPEED)

    for name in "ab":
        engine.submit(Request(name, prompt_tokens=50, max_tokens=1), now=0.0)

    assert [token.at for token in _run(engine)] == [0.5, 1.0]


def test_waits_for_a_slot() -> None:
    engine = Engine(_SPEED)

    for name in "abc":
        engine.submit(Request(name, prompt_tokens=10, max_tokens=5), now=0.0)

    assert (engine.gauges().running, engine.gauges().waiting) == (2, 1)
    assert [token.request for token in _run(engine) if token.finish] == ["a", "b", "c"]


def test_waits_for_room() -> None:
    engine = Engine(Speed(kv_tokens=100, max_num_seqs=8))

    for name in "ab":
        engine.submit(Request(name, prompt_tokens=60, max_tokens=5), now=0.0)

    assert (engine.gauges().running, engine.gauges().waiting) == (1, 1)


def test_preempts_the_latest_when_the_room_runs_out() -> None:
    engine = Engine(Speed(kv_tokens=100, max_num_seqs=8))
    first, second = (engine.submit(Request(name, prompt_tokens=45, max_tokens=20), now=0.0) for name in "ab")

    tokens = _run(engine)

    assert (first.preemptions, second.preemptions) == (0, 1)
    assert [token.index for token in tokens if token.request == "b"] == list(range(20))


def test_a_client_that_leaves_frees_its_slot() -> None:
    engine = Engine(_SPEED)
    for name in "abc":
        engine.submit(Request(name, prompt_tokens=10, max_tokens=5), now=0.0)

    engine.abort("a", now=0.1)

    assert (engine.gauges().running, engine.gauges().waiting) == (2, 0)


def test_time_stands_still_while_paused() -> None:
    engine = Engine(_SPEED)
    engine.submit(Request("a", prompt_tokens=50, max_tokens=2), now=0.0)

    engine.pause(now=0.2)
    engine.submit(Request("b", prompt_tokens=50, max_tokens=1), now=0.3)
    asleep = (engine.next_at(), engine.gauges().running, engine.gauges().waiting, engine.unfinished)
    engine.resume(now=10.2)

    assert asleep == (None, 0, 0, 2)
    assert [(token.request, round(token.at, 6)) for token in _run(engine)] == [("a", 10.5), ("a", 10.6), ("b", 11.0)]


def test_aborting_all_ends_each_without_a_token() -> None:
    engine = Engine(_SPEED)
    for name in "abc":
        engine.submit(Request(name, prompt_tokens=10, max_tokens=5), now=0.0)

    ends = engine.abort_all(now=0.05)

    assert [(end.request, end.finish, end.is_empty) for end in ends] == [(name, Finish.ABORT, True) for name in "abc"]
    assert engine.unfinished == 0


_requests = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20), st.floats(0, 5)), max_size=20)


@given(_requests, st.integers(-1000, 1000))
def test_knows_no_time_of_its_own(requests: list[tuple[int, int, float]], shift: int) -> None:
    def outcome(start: float) -> list[tuple[str, int, float]]:
        engine = Engine(_SPEED)
        tokens: list[Token] = []
        for index, (prompt, tokens_wanted, at) in enumerate(sorted(requests, key=lambda each: each[2])):
            tokens += engine.advance(start + at)
            engine.submit(Request(str(index), prompt, tokens_wanted), now=start + at)
        tokens += _run(engine)
        return sorted((token.request, token.index, round(token.at - start, 3)) for token in tokens)

    here, there = outcome(1000.0), outcome(1000.0 + shift)

    assert [each[:2] for each in here] == [each[:2] for each in there]
    assert all(abs(a[2] - b[2]) < 0.01 for a, b in zip(here, there, strict=True))


@given(_requests)
def test_every_request_gets_all_its_tokens_in_order(requests: list[tuple[int, int, float]]) -> None:
    engine = Engine(_SPEED)
    for index, (prompt, wanted, _) in enumerate(requests):
        engine.submit(Request(str(index), prompt, wanted), now=0.0)

    tokens = _run(engine)

    for index, (_, wanted, _) in enumerate(requests):
        assert [token.index for token in tokens if token.request == str(index)] == list(range(wanted))
    assert engine.unfinished == 0
