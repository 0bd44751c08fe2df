"""What every store can do, and what those have in common that speak HTTP."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import httpx

from lull import __version__
from lull.fetcher import download
from lull.fetcher.failures import Failed, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from lull.fetcher.options import Options
    from lull.fetcher.snapshot import RemoteFile, Snapshot

CHUNK: Final = 1 << 20
_TLS_TROUBLES: Final = {
    "CERTIFICATE_VERIFY_FAILED": "has a TLS certificate that nobody known has signed",
    "WRONG_VERSION_NUMBER": "does not speak TLS; a registry that may go without is listed in the setting oci_plain_http",
    "RECORD_LAYER_FAILURE": "does not speak TLS; a registry that may go without is listed in the setting oci_plain_http",
}
_TLS: Final = re.compile("|".join(_TLS_TROUBLES))


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes on their way."""

    offset: int | None
    """Where in the file they begin; None where that cannot be told."""
    chunks: AsyncIterator[bytes]


class Remote(Protocol):
    """A store that holds a source. Each method raises Transient for what may pass and Failed for what will not."""

    name: str
    """How sentences call it."""

    async def list(self) -> Snapshot:
        """Say what the source holds now."""

    async def describe(self, file: RemoteFile, version: str) -> RemoteFile:
        """Fill in size and checksum where the listing left them out."""

    def open(self, file: RemoteFile, version: str, offset: int) -> AbstractAsyncContextManager[Content]:
        """Yield a file's content from an offset on; stores that cannot do that begin at the start."""


def connect_http(options: Options, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers={
            "User-Agent": f"lull/{__version__}",
            # Sizes, ranges and checksums are those of the plain content.
            "Accept-Encoding": "identity",
            **(headers or {}),
        },
        timeout=httpx.Timeout(options.silence, connect=min(10.0, options.silence)),
        limits=httpx.Limits(max_connections=2 * options.parallel),
    )


@asynccontextmanager
async def ask(
    client: httpx.AsyncClient,
    url: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    form: dict[str, str] | None = None,
) -> AsyncIterator[httpx.Response]:
    """Yield a final answer, whatever its status; Transient for one that may be another the next time."""
    try:
        # Following a redirect to another host, httpx leaves the credentials behind.
        async with client.stream(method, url, headers=headers, data=form, follow_redirects=method != "HEAD") as answer:
            if download.is_transient(answer.status_code):
                raise Transient(f"status {answer.status_code}", answer.headers.get("retry-after"))
            yield answer
    except httpx.TransportError as error:
        if trouble := _TLS.search(str(error)):
            raise Failed(f"{httpx.URL(url).netloc.decode()} {_TLS_TROUBLES[trouble[0]]}.") from error
        raise Transient(f"{type(error).__name__} {error}".strip()) from error
    except (httpx.TooManyRedirects, httpx.InvalidURL, httpx.DecodingError) as error:
        host = httpx.URL(url).host
        raise Failed(f"{host} gives an answer that cannot be followed: {error}.") from error


async def read(answer: httpx.Response, at_most: int, what: str) -> bytes:
    """Read a whole answer into memory, as long as it is no larger than allowed."""
    content = bytearray()
    async for chunk in answer.aiter_bytes():
        content += chunk
        if len(content) > at_most:
            raise Failed(f"{what} is larger than {at_most} bytes.")
    return bytes(content)


def content_of(answer: httpx.Response, asked: int) -> Content:
    offset = download.starts_at(answer.status_code, answer.headers.get("content-range", ""), asked=asked)
    return Content(offset, answer.aiter_raw(CHUNK))
