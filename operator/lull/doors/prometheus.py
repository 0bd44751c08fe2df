"""Prometheus' HTTP API, for history alone: nothing that has to happen now waits for it.

Its client blocks, so that each query is asked in a thread, few at a time, with a deadline and a bound on the answer.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lull.core.forecast import STEP
from lull.core.history import (
    Span,
    Unreadable,
    ask_arrivals,
    ask_seconds,
    ask_tokens,
    extend,
    find_span,
    parse_matrix,
    parse_value,
)
from lull.core.simulation.traces import Rates
from lull.doors import clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import Key
    from lull.core.forecast import Series

_Read = TypeVar("_Read")
_AT_A_TIME: Final = 2
_ANSWER_BYTES: Final = 16 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_MOST_POINTS: Final = 5000
"""Of one query; Prometheus takes 11,000."""
_DEADLINE: Final = 20.0
_HEADER_LINES: Final = 16


class Unavailable(Exception):  # noqa: N818  reads as what Prometheus is
    """Prometheus did not answer, or not as it should; in words that stay the same while it does not."""


class Prometheus:
    """Questions to one Prometheus, or to what answers like it (Thanos, Mimir, VictoriaMetrics)."""

    def __init__(self, url: str, *, credentials: str = "", deadline: float = _DEADLINE) -> None:
        """`credentials` is a folder with a bearer `token`, further `headers` and a `ca.crt`, as far as needed.

        It is read for each question, as Kubernetes changes what is in a Secret.
        """
        self._url = url.rstrip("/")
        self._credentials = Path(credentials) if credentials else None
        self._deadline = deadline
        self._threads = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="prometheus")

    async def read_arrivals(self, key: Key, *, wall: float, days: int, known: Series | None = None) -> Series:
        """Requests a second up to now; of what is known already only the end is asked for again."""
        span = find_span(wall, days=days, step=STEP)
        begin = span.begin
        if known is not None and known.begin <= begin and known.end > begin:
            # Samples of the last hour may have come late.
            begin = max(begin, known.end - 12 * STEP)
        newer = await self._read(ask_arrivals(key, step=STEP), Span(begin, span.end, STEP))
        return extend(known, newer, keep=span.count)

    async def read_seconds(self, key: Key) -> float | None:
        """Seconds that a request spent with an engine, on average of the last day; None where there was none."""
        query = ask_seconds(key)
        return _parse(parse_value, await self._ask(lambda client: client.custom_query(query=query)))

    async def read_rates(self, key: Key, *, wall: float, days: float, step: float) -> Rates:
        """Requests and tokens a second, for a trace."""
        span = find_span(wall, days=days, step=step)
        return Rates(
            await self._read(ask_arrivals(key, step=step), span),
            *[await self._read(ask_tokens(key, kind, step=step), span) for kind in ("input", "cached", "output")],
        )

    def close(self) -> None:
        """Ask nothing more; what is being asked ends with its deadline."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, query: str, span: Span) -> Series:
        series: Series | None = None
        begin = span.begin
        while begin < span.end:
            part = Span(begin, min(span.end, begin + _MOST_POINTS * span.step), span.step)
            answer = await self._ask(partial(_ask_range, query=query, span=part))
            series = extend(series, _parse(partial(parse_matrix, span=part), answer), keep=span.count)
            begin = part.end
        return series if series is not None else parse_matrix([], span)

    async def _ask(self, question: Callable[[Any], Any]) -> Any:  # noqa: ANN401  whatever stood in JSON
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._deadline):
                return await loop.run_in_executor(self._threads, self._ask_now, question)
        except TimeoutError as error:
            raise Unavailable("no answer in time") from error

    def _ask_now(self, question: Callable[[Any], Any]) -> Any:  # noqa: ANN401  likewise
        # Only who asks pays for these: they take a third of a second.
        import requests  # noqa: PLC0415
        from prometheus_api_client import PrometheusConnect  # noqa: PLC0415
        from prometheus_api_client.exceptions import PrometheusApiClientException  # noqa: PLC0415
        from urllib3.util import Retry  # noqa: PLC0415

        deadline = clock.monotonic() + self._deadline
        with requests.Session() as session:
            session.trust_env = False
            session.max_redirects = 0
            session.hooks["response"].append(lambda response, **_: _take(response, deadline))
            try:
                headers, session.verify = self._read_credentials()
                client = PrometheusConnect(
                    self._url,
                    headers=headers,
                    session=session,
                    retry=Retry(0, read=False),
                    timeout=self._deadline / 2,
                )
                return question(client)
            except PrometheusApiClientException as error:
                raise Unavailable(str(error).partition(" (")[0]) from error
            except _TooMuch as error:
                raise Unavailable("its answer is too large or too slow") from error
            except (requests.JSONDecodeError, KeyError, TypeError) as error:
                raise Unavailable("its answer is none of Prometheus") from error
            except (requests.RequestException, ValueError, OSError) as error:
                raise Unavailable(type(error).__name__) from error

    def _read_credentials(self) -> tuple[dict[str, str], str | bool]:
        """Headers, and what certificates are checked by."""
        folder = self._credentials
        if folder is None:
            return {}, True
        headers = _parse_headers(_read(folder / "headers"))
        if token := _read(folder / "token"):
            headers["Authorization"] = f"Bearer {token}"
        return headers, str(folder / "ca.crt") if (folder / "ca.crt").exists() else True


def _ask_range(client: Any, *, query: str, span: Span) -> Any:  # noqa: ANN401  likewise
    """Samples at the end of each step."""
    return client.custom_query_range(
        query=query,
        start_time=datetime.fromtimestamp(span.begin + span.step, UTC),
        end_time=datetime.fromtimestamp(span.end, UTC),
        step=f"{span.step:.0f}",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def _parse_headers(text: str) -> dict[str, str]:
    headers = {}
    for number, line in enumerate(filter(str.strip, text.splitlines()), start=1):
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or number > _HEADER_LINES:
            # Not the line itself: it may be a secret.
            raise Unavailable(f"headers, line {number}: write Name: value, in at most {_HEADER_LINES} lines")
        headers[name.strip()] = value.strip()
    return headers


def _parse(parse: Callable[[object], _Read], answer: object) -> _Read:
    try:
        return parse(answer)
    except Unreadable as error:
        raise Unavailable(f"its answer is none of Prometheus: {error}") from error


def _take(response: Any, deadline: float) -> None:  # noqa: ANN401  requests has no types
    """Read an answer while it is neither too large nor too slow."""
    chunks: list[bytes] = []
    size = 0
    for chunk in response.iter_content(_CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > _ANSWER_BYTES or clock.monotonic() > deadline:
            response.close()
            raise _TooMuch
    response._content = b"".join(chunks)  # noqa: SLF001  where requests keeps what was read


class _TooMuch(OSError):  # noqa: N818  as above
    """An answer that is too large, or too slow."""
