"""What a pooling model answers: embeddings, scores and ranks, made up from the text and always the same for it."""

import base64
import hashlib
import math
import secrets
import struct
import time

from .payloads import Json

DIMENSIONS = 16


def embed(text: str) -> list[float]:
    """Make a vector of length one, in what a float of four bytes can hold."""
    digest = hashlib.sha256(text.encode()).digest()
    raw = [int.from_bytes(digest[at : at + 2]) / 32768 - 1 for at in range(0, 2 * DIMENSIONS, 2)]
    length = math.sqrt(sum(value * value for value in raw)) or 1.0
    return list(struct.unpack(f"<{DIMENSIONS}f", _pack([value / length for value in raw])))


def embedding_answer(model: str, vectors: list[list[float]], tokens: int, *, is_text: bool) -> Json:
    """Write vectors as lists of numbers or, as clients prefer it, as text."""
    entries = [
        {
            "index": index,
            "object": "embedding",
            "embedding": base64.b64encode(_pack(vector)).decode() if is_text else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    return _list("embd", model, entries, tokens)


def score_answer(model: str, pairs: list[tuple[str, str]], tokens: int) -> Json:
    entries: list[Json] = [
        {"index": index, "object": "score", "score": _score(*pair)} for index, pair in enumerate(pairs)
    ]
    return _list("score", model, entries, tokens)


def rerank_answer(model: str, query: str, documents: list[str], tokens: int, *, top_n: int) -> Json:
    results: list[Json] = [
        {
            "index": index,
            "document": {"text": document, "multi_modal": None},
            "relevance_score": _score(query, document),
        }
        for index, document in enumerate(documents)
    ]
    results.sort(key=lambda result: -float(result["relevance_score"]))
    return {
        "id": f"score-{secrets.token_hex(8)}",
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results[:top_n],
    }


def _list(kind: str, model: str, entries: list[Json], tokens: int) -> Json:
    counts: Json = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {
        "id": f"{kind}-{secrets.token_hex(8)}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": entries,
        "usage": {**counts, "prompt_tokens_details": None, "completion_tokens_details": None},
    }


def _score(one: str, other: str) -> float:
    return sum(a * b for a, b in zip(embed(one), embed(other), strict=True))


def _pack(vector: list[float]) -> bytes:
    return struct.pack(f"<{len(vector)}f", *vector)
