"""A model of embeddings: real vLLM and engine-sim, request by request."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.contract.conftest import Behind, Pair, Starter, port_of
from tests.contract.shapes import form_of
from tests.unit.gateway import conftest as gateways

running_gateway = gateways.running

# The image may have to be built first, and two cores may be busy.
pytestmark = [pytest.mark.contract, pytest.mark.timeout(1500)]

_RANKED = {"query": "a", "documents": ["b", "c"]}
_HELLO = [{"role": "user", "content": "hi"}]
_REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "embedding": ("/v1/embeddings", {"input": "hi there"}),
    "embeddings": ("/v1/embeddings", {"input": ["hi", "ho"]}),
    "embedding of tokens": ("/v1/embeddings", {"input": [300, 301]}),
    "embedding of a conversation": ("/v1/embeddings", {"messages": _HELLO}),
    "embedding as text": ("/v1/embeddings", {"input": "hi", "encoding_format": "base64"}),
    "embedding of fewer dimensions": ("/v1/embeddings", {"input": "hi", "dimensions": 8}),
    "embedding by an unknown model": ("/v1/embeddings", {"model": "x", "input": "hi"}),
    "embedding of nothing": ("/v1/embeddings", {}),
    "embedding of an empty list": ("/v1/embeddings", {"input": []}),
    "embedding of what is too long": ("/v1/embeddings", {"input": "7 " * 5000}),
    "ranks": ("/rerank", _RANKED),
    "the first rank": ("/v1/rerank", {"query": "a", "documents": ["b", "c"], "top_n": 1}),
    "rank of one": ("/v2/rerank", {"query": "a", "documents": "b"}),
    "ranks of nothing": ("/rerank", {"query": "a"}),
    "score": ("/score", {"text_1": "a", "text_2": "b"}),
    "scores against one": ("/score", {"queries": "a", "documents": ["b", "c"]}),
    "scores of pairs": ("/v1/score", {"text_1": ["a", "b"], "text_2": ["b", "c"]}),
    "half a score": ("/score", {"text_1": "a"}),
    "score by an unknown model": ("/score", {"model": "x", "text_1": "a", "text_2": "b"}),
    "classes": ("/classify", {"input": "hi"}),
    "tokenize": ("/tokenize", {"prompt": "hi"}),
    "detokenize": ("/detokenize", {"tokens": [75]}),
    "chat": ("/v1/chat/completions", {"messages": _HELLO}),
    "completion": ("/v1/completions", {"prompt": "hi"}),
    "response": ("/v1/responses", {"input": "hi"}),
    "message": ("/v1/messages", {"messages": _HELLO, "max_tokens": 2}),
    "counting tokens": ("/v1/messages/count_tokens", {"messages": _HELLO}),
    "invocation": ("/invocations", {"input": "hi"}),
}


@pytest.fixture(scope="module")
def pooling(start: Starter) -> Iterator[Pair]:
    """As `model.task: Embed` starts it."""
    with start(["--runner", "pooling", "--convert", "embed"]) as both:
        yield both


def test_answers_alike(pooling: Pair) -> None:
    forms = {
        name: [form_of(engine.client.post(path, json={"model": "tiny", **body})) for engine in pooling]
        for name, (path, body) in _REQUESTS.items()
    }

    assert {name: sim for name, (_, sim) in forms.items()} == {name: real for name, (real, _) in forms.items()}


async def test_openais_client_gets_the_engines_vectors(pooling: Pair, running_gateway: Any) -> None:
    async with running_gateway() as world:
        world.add_model("tiny", model={"source": "hf://org/model", "task": "Embed"})
        world.put_pod(Behind(port_of(pooling.real)), pod="pod-1", model="tiny")
        await world.wait_listed("tiny")
        async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
            passed = await client.embeddings.create(model="tiny", input=["hi", "ho"])
            ranked = await client.post("/rerank", cast_to=dict[str, Any], body={"model": "tiny", **_RANKED})

    direct = pooling.real.client.post("/v1/embeddings", json={"model": "tiny", "input": ["hi", "ho"]}).json()
    assert [entry.embedding for entry in passed.data] == [
        pytest.approx(entry["embedding"], rel=1e-5) for entry in direct["data"]
    ]
    assert passed.usage.prompt_tokens == direct["usage"]["prompt_tokens"]
    assert ranked["results"] == pooling.real.client.post("/rerank", json={"model": "tiny", **_RANKED}).json()["results"]
