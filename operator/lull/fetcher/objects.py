"""Objects under a prefix of a bucket: S3, Google Cloud Storage, and what speaks like them."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import (
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import GCSStore, S3Store

from lull import __version__
from lull.fetcher import download
from lull.fetcher.failures import Failed, Forbidden, NotFound, Transient
from lull.fetcher.options import SERVICE_ACCOUNT
from lull.fetcher.remote import CHUNK, Content
from lull.fetcher.snapshot import MAX_FILES, Checksum, RemoteFile, Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from obstore import ObjectMeta
    from obstore.store import ClientConfig, GCSConfig, RetryConfig, S3Config

    from lull.fetcher.options import Options
    from lull.fetcher.sources import ObjectSource

_MD5: Final = re.compile(r"[0-9a-f]{32}")
_STATUS: Final = re.compile(r"status code: ([0-9]{3})")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})</Message>")
# Asking these for credentials is the last thing that is tried, so failing there says that there are none.
_NO_CREDENTIALS: Final = re.compile(r"http://[^/ ]+/(latest/(api/token|meta-data/iam)|computeMetadata/v1/instance)")
_CAUSE: Final = re.compile(r'message: "([^"]{1,200})"|"(dns error)"')
_WRONG_REGION: Final = re.compile(r"redirect without LOCATION|PermanentRedirect|AuthorizationHeaderMalformed")
_LONG: Final = timedelta(days=7)


class Objects:
    """The objects under one prefix."""

    def __init__(self, source: ObjectSource, options: Options) -> None:
        self._source = source
        self._options = options
        self._store = _open_store(source, options, anonymous=False)
        self._is_anonymous = False
        endpoint = _endpoint(source, options)
        self.name = endpoint or ("Amazon S3" if source.scheme == "s3" else "Google Cloud Storage")

    async def list(self) -> Snapshot:
        try:
            files = await self._list()
        except GenericError as error:
            if self._is_anonymous or not _NO_CREDENTIALS.search(str(error)):
                raise self._trouble(error) from error
            # Nobody gave credentials, and this machine has none: the bucket may be public.
            self._is_anonymous = True
            self._store = _open_store(self._source, self._options, anonymous=True)
            return await self.list()
        except (BaseError, FileNotFoundError) as error:
            raise self._trouble(error) from error
        if not files:
            raise NotFound(
                f"{self._source} holds nothing on {self.name}: spec.model.source names the folder that holds config.json."
            )
        return Snapshot(_version(files), files)

    async def describe(self, file: RemoteFile, version: str) -> RemoteFile:  # noqa: ARG002  listings say it all
        return file

    @asynccontextmanager
    async def open(self, file: RemoteFile, version: str, offset: int) -> AsyncIterator[Content]:  # noqa: ARG002
        try:
            answer = await obstore.get_async(
                self._store, file.address, options={"range": {"offset": offset}} if offset else None
            )
        except (BaseError, FileNotFoundError) as error:
            raise self._trouble(error, file.path) from error
        if _checksum(answer.meta) != file.checksum:
            raise Failed(f"{file.path} of {self._source} was replaced while it was fetched: fetch it again.")
        yield Content(offset, self._chunks(answer, file.path))

    async def _chunks(self, answer: obstore.GetResult, path: str) -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)
        except BaseError as error:
            raise self._trouble(error, path) from error

    async def _list(self) -> tuple[RemoteFile, ...]:
        files: list[RemoteFile] = []
        start = len(self._source.prefix) + 1 if self._source.prefix else 0
        async for batch in obstore.list(self._store, prefix=self._source.prefix or None):
            files.extend(
                RemoteFile(item["path"][start:], item["size"], _checksum(item), address=item["path"]) for item in batch
            )
            if len(files) > MAX_FILES:
                raise Failed(f"{self._source} holds more than {MAX_FILES} objects: name the model's own folder.")
        # What object browsers leave as the sign of a folder is no file.
        folders = {str(folder) for file in files for folder in PurePosixPath(file.path).parents}
        return tuple(file for file in files if file.path and (file.size or file.path not in folders))

    def _trouble(self, error: Exception, path: str | None = None) -> Exception:
        """Say what an error of the store means."""
        what = str(self._source) if path is None else f"{path} of {self._source}"
        text = str(error).partition("\n\nDebug source")[0]
        status = found[1] if (found := _STATUS.search(text)) else ""
        if isinstance(error, FileNotFoundError) or status == "404":
            return NotFound(f"{what} was not found on {self.name}: look at the bucket and the path.")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in {"401", "403"}:
            return Forbidden(self._forbidden(what, status))
        if _WRONG_REGION.search(text):
            return Failed(
                f"{self.name} keeps {self._source.bucket} in another region: "
                "name it under the key AWS_REGION of the Secret that spec.model.secretName names."
            )
        if "InvalidCertificate" in str(error):
            return Failed(f"{self.name} has a TLS certificate that nobody known has signed.")
        if status and not download.is_transient(int(status)):
            said = found[1] if (found := _MESSAGE.search(text)) else "no reason given"
            return Failed(f"{self.name} answers {what} with status {status}: {said}.")
        return Transient(f"status {status}" if status else _brief(str(error)))

    def _forbidden(self, what: str, status: str) -> str:
        keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if self._source.scheme == "s3" else SERVICE_ACCOUNT
        if self._is_anonymous:
            return (
                f"{self.name} asks for credentials for {what} ({status}): "
                f"put {keys} into the Secret that spec.model.secretName names."
            )
        return (
            f"{self.name} refuses {what} to these credentials ({status}): "
            "they are not valid, or may not list the bucket and read its objects."
        )


def _open_store(source: ObjectSource, options: Options, *, anonymous: bool) -> S3Store | GCSStore:
    """Open the store with what the Secret holds, else with what the machine has: web identity, instance metadata."""
    endpoint = _endpoint(source, options)
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise Failed(f"The endpoint {endpoint} is no URL: it begins with https:// or http://.")
    silence = timedelta(seconds=options.silence)
    client: ClientConfig = {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "connect_timeout": min(timedelta(seconds=10), silence),
        "read_timeout": silence,
        # A large object may take hours.
        "timeout": _LONG,
        "user_agent": f"lull/{__version__}",
    }
    # Whoever calls this has patience of its own, and tells of it.
    retries: RetryConfig = {"max_retries": 0}
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_")) and not os.environ[name].strip()]:
        # The library reads the environment too, and takes an empty value at its word.
        del os.environ[name]
    if source.scheme == "s3":
        s3 = _s3_config(options.credentials, endpoint, anonymous=anonymous)
        return S3Store(source.bucket, config=s3, client_options=client, retry_config=retries)
    gs = _gs_config(options.credentials, endpoint, anonymous=anonymous)
    try:
        return GCSStore(source.bucket, config=gs, client_options=client, retry_config=retries)
    except BaseError:
        # Without the cause: what the library says may quote the key.
        raise Forbidden(f"{SERVICE_ACCOUNT} in the Secret is not the key of a Google service account.") from None


def _s3_config(secret: Mapping[str, str], endpoint: str | None, *, anonymous: bool) -> S3Config:
    config: S3Config = {"skip_signature": anonymous}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if "AWS_REGION" in secret:
        config["region"] = secret["AWS_REGION"]
    if "AWS_ACCESS_KEY_ID" in secret:
        config["access_key_id"] = secret["AWS_ACCESS_KEY_ID"]
        config["secret_access_key"] = secret.get("AWS_SECRET_ACCESS_KEY", "")
    if "AWS_SESSION_TOKEN" in secret:
        config["session_token"] = secret["AWS_SESSION_TOKEN"]
    return config


def _gs_config(secret: Mapping[str, str], endpoint: str | None, *, anonymous: bool) -> GCSConfig:
    config: GCSConfig = {"skip_signature": anonymous}
    if endpoint is not None:
        config["base_url"] = endpoint
    if SERVICE_ACCOUNT in secret:
        config["service_account_key"] = secret[SERVICE_ACCOUNT]
    return config


def _endpoint(source: ObjectSource, options: Options) -> str | None:
    if source.scheme == "gs":
        return options.endpoints.gs
    return options.credentials.get("AWS_ENDPOINT_URL", "").rstrip("/") or options.endpoints.s3


def _checksum(item: ObjectMeta) -> Checksum:
    """Read an ETag: the MD5 of what came in one piece, anything for what was put together from parts.

    Where a server gives none, the time of the last change tells one content from the next.
    """
    tag = (item["e_tag"] or "").removeprefix("W/").strip('"')
    if not tag:
        return Checksum("etag", item["last_modified"].isoformat())
    return Checksum("md5" if _MD5.fullmatch(tag) else "etag", tag)


def _version(files: tuple[RemoteFile, ...]) -> str:
    """Name a state of the prefix, which has no name of its own."""
    lines = sorted(f"{file.path}\n{file.size}\n{file.checksum.hex if file.checksum else ''}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def _brief(text: str) -> str:
    """Say what happened: the system's own words at the bottom of a chain of causes, else the last of the chain."""
    if found := _CAUSE.search(text):
        return found[1] or found[2]
    return text.partition("\n\nDebug source")[0].rpartition(" - ")[2].strip()[:200]
