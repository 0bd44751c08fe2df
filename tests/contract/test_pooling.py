"""A model of embeddings: real vLLM and engine-sim, request by request."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.conftest import Pair, Starter
from tests.contract.shapes import form_of

# The image may have to be built first, and two cores may be busy.
pytestmark = [pytest.mark.contract, pytest.mark.timeout(1500)]

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
    "ranks": ("/rerank", {"query": "a", "documents": ["b", "c"]}),
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
    for name, (path, body) in _REQUESTS.items():
        real, sim = (form_of(engine.client.post(path, json={"model": "tiny", **body})) for engine in pooling)

        assert sim == real, name
