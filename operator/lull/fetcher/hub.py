"""Repositories on a Hugging Face compatible hub."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from lull.fetcher import download
from lull.fetcher.failures import Failed, Forbidden, NotFound
from lull.fetcher.remote import ask, connect_http, content_of, read
from lull.fetcher.snapshot import MAX_FILES, RemoteFile, Snapshot, parse_checksum

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import httpx

    from lull.fetcher.options import Options
    from lull.fetcher.remote import Content
    from lull.fetcher.snapshot import Json
    from lull.fetcher.sources import HubSource

MAX_LISTING: Final = 32 << 20


@asynccontextmanager
async def connect_hub(source: HubSource, options: Options) -> AsyncIterator[Hub]:
    """Connect, with the token where there is one."""
    token = options.credentials.get("token")
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with connect_http(options, headers) as client:
        yield Hub(source, client, name=options.endpoints.hub, has_token=token is not None)


class Hub:
    """One repository, as the hub shows it."""

    def __init__(self, source: HubSource, client: httpx.AsyncClient, *, name: str, has_token: bool) -> None:
        self._source = source
        self._client = client
        self._has_token = has_token
        self.name = name

    async def list(self) -> Snapshot:
        async with self._answer(self._source.listing_path) as answer:
            content = await read(answer, MAX_LISTING, "The hub's listing")
        try:
            listing: Json = json.loads(content)
        except ValueError as error:
            raise Failed(f"The hub's listing is not JSON: {error}.") from error
        return parse_snapshot(listing)

    async def describe(self, file: RemoteFile, version: str) -> RemoteFile:
        """Ask for the size and digest where the listing left them out, as small mirrors do."""
        if file.size is not None and file.checksum is not None:
            return file
        path = self._source.file_path(version, file.path)
        async with self._answer(path, method="HEAD", what=file.path) as answer:
            return describe(file, answer.headers)

    @asynccontextmanager
    async def open(self, file: RemoteFile, version: str, offset: int) -> AsyncIterator[Content]:
        path = self._source.file_path(version, file.path)
        async with self._answer(path, what=file.path, headers=download.range_header(offset)) as answer:
            yield content_of(answer, offset)

    @asynccontextmanager
    async def _answer(
        self, path: str, *, method: str = "GET", what: str | None = None, headers: dict[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Yield an answer that brings content (or, to HEAD, says where it is); everything else is raised."""
        async with ask(self._client, self.name + path, method=method, headers=headers) as answer:
            if answer.status_code >= 400 and answer.status_code != 416:
                raise refusal(
                    answer.status_code,
                    source=self._source,
                    endpoint=self.name,
                    has_token=self._has_token,
                    path=what,
                )
            yield answer


def parse_snapshot(answer: Json) -> Snapshot:
    """Read a hub's listing of one revision; Failed where it is malformed."""
    try:
        commit = answer["sha"]
        siblings = answer["siblings"]
        files = tuple(_parse_file(sibling) for sibling in siblings)
    except (KeyError, TypeError, AttributeError) as error:
        raise Failed(f"The hub's listing cannot be read: {type(error).__name__} {error}.") from error
    if not isinstance(commit, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", commit):
        raise Failed("The hub's listing names no commit.")
    if len(files) > MAX_FILES:
        raise Failed(f"The repository holds {len(files)} files, more than {MAX_FILES}.")
    return Snapshot(commit, files)


def describe(file: RemoteFile, headers: Mapping[str, str]) -> RemoteFile:
    """Fill in what the listing left out from the answer to a HEAD request.

    A hub that redirects to storage says size and digest of the content in `X-Linked-*`; its own ETag and length are
    those of the redirect.
    """
    size = headers.get("x-linked-size") or headers.get("content-length") or ""
    checksum = parse_checksum(headers.get("x-linked-etag") or headers.get("etag") or "")
    return RemoteFile(
        file.path, download.parse_size(size) if file.size is None else file.size, file.checksum or checksum
    )


def refusal(status: int, *, source: HubSource, endpoint: str, has_token: bool, path: str | None = None) -> Failed:
    """Say what a final answer of the hub means; the LLMDeployment's condition adds what to do about it."""
    what = str(source) if path is None else f"{path} of {source}"
    if status in {404, 410}:
        return NotFound(
            f"{what} was not found on {endpoint}."
            + (
                ""
                if has_token
                else " A private model also needs a token, in the Secret that spec.model.secretName names."
            )
        )
    if status in {401, 403} and has_token:
        return Forbidden(
            f"{endpoint} refuses {what} to this token ({status}): it is not valid, or its account has no access."
        )
    if status in {401, 403}:
        return Forbidden(
            f"{endpoint} asks for a token for {what} ({status}): the model is gated or private, or its name is wrong; "
            "put a token into the Secret that spec.model.secretName names, under the key token."
        )
    return Failed(f"{endpoint} answers {what} with status {status}.")


def _parse_file(sibling: Json) -> RemoteFile:
    path = sibling["rfilename"]
    if not isinstance(path, str):
        raise TypeError(f"the name {path!r}")
    lfs = sibling.get("lfs") or {}
    size = lfs.get("size", sibling.get("size"))
    if size is not None and (not isinstance(size, int) or size < 0):
        raise Failed(f"The hub's listing gives {path} the size {size!r}.")
    # Hubs have named the LFS digest both ways.
    sha256 = lfs.get("sha256") or lfs.get("oid")
    checksum = parse_checksum(sha256 or sibling.get("blobId") or "")
    return RemoteFile(path, size, checksum)
