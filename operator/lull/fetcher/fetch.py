"""Fetching itself: list, compare with what is there, download what is missing, leave a marker."""

from __future__ import annotations

import asyncio
import errno
import json
import random
import shutil
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import httpx

from lull import __version__
from lull.doors import clock
from lull.fetcher import download
from lull.fetcher.download import Marker
from lull.fetcher.failures import DiskFull, Failed
from lull.fetcher.snapshot import OWN_FOLDER, HubSource, RemoteFile, Snapshot, choose, parse_snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from lull.fetcher.snapshot import Json

    Log = Callable[..., None]
    """Takes an event and its fields."""

T = TypeVar("T")

MARKER: Final = f"{OWN_FOLDER}/complete.json"
CHUNK: Final = 1 << 20
MAX_LISTING: Final = 32 << 20
MAX_TRIES: Final = 50
"""Tries for one file. Each continues where the one before was cut, so this ends only a hub that cannot continue."""
MAX_MISMATCHES: Final = 3
"""Tries for a file whose content is not what the hub's checksum says."""


@dataclass(frozen=True, slots=True)
class Options:
    endpoint: str
    token: str | None = None
    patience: float = 300.0
    """Seconds without a single byte after which a hub that fails is given up."""
    cached_patience: float = 10.0
    """The same while looking for news of files that are already complete here."""
    silence: float = 30.0
    """Seconds of silence after which one connection is given up."""
    parallel: int = 4
    report_every: float = 2.0


@dataclass(slots=True)
class _Progress:
    """Bytes so far, and when the last one came."""

    total: int = 0
    present: int = 0
    received: int = 0
    moved_at: float = field(default_factory=clock.monotonic)

    def add(self, count: int) -> None:
        self.received += count
        self.moved_at = clock.monotonic()


class _Transient(Exception):  # noqa: N818  the next try may succeed
    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


async def fetch(source: HubSource, target: Path, options: Options, log: Log) -> None:
    """Bring the files of a source into a folder; Failed says why it cannot be done.

    Each file appears under its name only when it is whole and checked. What a run that was cut short has got is
    continued by the next one.
    """
    with _disk(target):
        (target / OWN_FOLDER).mkdir(parents=True, exist_ok=True)
        marker = _read_marker(target)
    async with _client(options) as client:
        await _Fetch(source, target, options, log, client).run(marker)


class _Fetch:
    """One run of the fetcher."""

    def __init__(self, source: HubSource, target: Path, options: Options, log: Log, client: httpx.AsyncClient) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._log = log
        self._client = client
        self._progress = _Progress()

    async def run(self, marker: Marker | None) -> None:
        started = clock.monotonic()
        cached = marker if marker is not None and marker.is_of(self._source) else None
        if cached is not None and not all(self._is_whole(file) for file in cached.files):
            cached = None
        if cached is not None and self._source.is_pinned:
            self._log("complete", **self._outcome(cached, started))
            return
        try:
            snapshot = await self._snapshot(self._options.patience if cached is None else self._options.cached_patience)
        except _Transient as error:
            if cached is None:
                raise Failed(f"{self._options.endpoint} cannot be reached: {error}.") from error
            self._log("hub unreachable", level="warning", error=str(error))
            self._log("complete", **self._outcome(cached, started))
            return
        if cached is not None and cached.commit == snapshot.commit:
            self._log("complete", **self._outcome(cached, started))
            return
        marker = await self._bring_all(snapshot, marker)
        self._log("complete", **self._outcome(marker, started))

    def _outcome(self, marker: Marker, started: float) -> dict[str, object]:
        seconds = clock.monotonic() - started
        return {
            "source": str(self._source),
            "commit": marker.commit,
            "files": len(marker.files),
            "bytes": sum(file.size or 0 for file in marker.files),
            "received": self._progress.received,
            "seconds": round(seconds, 3),
            "bytesPerSecond": round(self._progress.received / max(seconds, 1e-3)),
        }

    async def _snapshot(self, patience: float) -> Snapshot:
        return parse_snapshot(await self._patiently(self._listing, patience))

    async def _listing(self) -> Json:
        content = bytearray()
        async with self._answer("GET", self._options.endpoint + self._source.listing_path) as answer:
            async for chunk in answer.aiter_bytes():
                content += chunk
                if len(content) > MAX_LISTING:
                    raise Failed(f"The hub's listing is larger than {MAX_LISTING} bytes.")
        try:
            listing: Json = json.loads(content)
        except ValueError as error:
            raise Failed(f"The hub's listing is not JSON: {error}.") from error
        return listing

    async def _bring_all(self, snapshot: Snapshot, marker: Marker | None) -> Marker:
        """Make the target hold what an engine needs of a snapshot, and nothing of an earlier one."""
        files = [await self._described(file, snapshot.commit) for file in choose(snapshot.files)]
        missing = [file for file in files if not await self._is_present(file, marker)]
        self._clean(files, missing, marker)
        self._progress.total = sum(file.size or 0 for file in files)
        needed = sum(max(0, (file.size or 0) - _size(self._partial(file))) for file in missing)
        self._progress.present = self._progress.total - needed
        self._reserve(needed)
        self._log(
            "fetching",
            source=str(self._source),
            commit=snapshot.commit,
            files=len(files),
            missing=len(missing),
            bytes=self._progress.total,
            present=self._progress.present,
        )
        await self._download(missing, snapshot.commit)
        finished = tuple(RemoteFile(file.path, _size(self._target / file.path), file.checksum) for file in files)
        marker = Marker(self._source.repository, self._source.revision, snapshot.commit, finished)
        with _disk(self._target):
            _write_marker(self._target, marker)
        return marker

    async def _described(self, file: RemoteFile, commit: str) -> RemoteFile:
        """Ask for the size and digest where the listing left them out, as small mirrors do."""
        if file.size is not None and file.checksum is not None:
            return file

        async def head() -> RemoteFile:
            async with self._answer("HEAD", self._url(file, commit), path=file.path) as answer:
                return download.describe(file, answer.headers)

        return await self._persistently(head)

    async def _is_present(self, file: RemoteFile, marker: Marker | None) -> bool:
        """Whether the file is here: by the marker, else by reading it, which is cheaper than the network."""
        if file.checksum is None or not self._is_whole(file):
            return False
        path = self._target / file.path
        if marker is not None and RemoteFile(file.path, _size(path), file.checksum) in marker.files:
            return True
        return await asyncio.to_thread(_matches, file, path)

    def _is_whole(self, file: RemoteFile) -> bool:
        path = self._target / file.path
        return path.is_file() and (file.size is None or _size(path) == file.size)

    def _clean(self, files: Iterable[RemoteFile], missing: Iterable[RemoteFile], marker: Marker | None) -> None:
        """Remove what an earlier revision left: engines load every weight file that they see."""
        wanted = {file.path for file in files}
        partials = {self._partial(file) for file in missing}
        with _disk(self._target):
            (self._target / MARKER).unlink(missing_ok=True)
            for file in marker.files if marker is not None else ():
                if file.path not in wanted:
                    (self._target / file.path).unlink(missing_ok=True)
            for path in (self._target / OWN_FOLDER).glob("*.partial"):
                if path not in partials:
                    path.unlink(missing_ok=True)

    def _reserve(self, needed: int) -> None:
        """Fail before the first byte where the files cannot fit."""
        free = shutil.disk_usage(self._target).free
        if needed > free:
            raise DiskFull(
                f"{self._source} needs {_render_bytes(needed)} more and {_render_bytes(free)} are free in {self._target}."
            )

    async def _download(self, missing: Iterable[RemoteFile], commit: str) -> None:
        slots = asyncio.Semaphore(self._options.parallel)

        async def bring(file: RemoteFile) -> None:
            async with slots:
                await self._bring(file, self._url(file, commit))

        with _first_failure():
            async with asyncio.TaskGroup() as tasks:
                reporter = tasks.create_task(self._report())
                async with asyncio.TaskGroup() as downloads:
                    # The largest first: what arrives last should be small.
                    for file in sorted(missing, key=lambda file: -(file.size or 0)):
                        downloads.create_task(bring(file))
                reporter.cancel()

    async def _report(self) -> None:
        """Say now and then how far it is and how fast it goes."""
        while True:
            before, since = self._progress.received, clock.monotonic()
            await asyncio.sleep(self._options.report_every)
            rate = (self._progress.received - before) / (clock.monotonic() - since)
            here = min(self._progress.total, self._progress.present + self._progress.received)
            self._log("progress", present=here, bytes=self._progress.total, bytesPerSecond=round(rate))

    async def _bring(self, file: RemoteFile, url: str) -> None:
        """Download one file and give it its name, once it is whole and checked."""
        partial = self._partial(file)
        for _ in range(MAX_MISMATCHES):
            if await self._persistently(lambda: self._receive(file, url)):
                with _disk(self._target):
                    (self._target / file.path).parent.mkdir(parents=True, exist_ok=True)
                    partial.replace(self._target / file.path)
                return
            with _disk(self._target):
                partial.unlink(missing_ok=True)
            self._log("wrong content", level="warning", file=file.path)
        raise Failed(f"{file.path} of {self._source} came {MAX_MISMATCHES} times with a wrong size or checksum.")

    async def _receive(self, file: RemoteFile, url: str) -> bool:
        """Receive what is missing of a file; whether the whole is what the hub promised. _Transient keeps the part."""
        partial = self._partial(file)
        asked = _size(partial)
        if file.size is not None and asked >= file.size > 0:
            return asked == file.size and await asyncio.to_thread(_matches, file, partial)
        async with self._answer("GET", url, path=file.path, headers=download.range_header(asked)) as answer:
            offset = download.starts_at(answer.status_code, answer.headers.get("content-range", ""), asked=asked)
            if offset is None:
                return False
            with _disk(self._target), partial.open("r+b" if offset else "wb") as content:
                content.seek(offset)
                async for chunk in answer.aiter_raw(CHUNK):
                    # In a thread, so that a slow disk does not hold up the other downloads.
                    await asyncio.to_thread(content.write, chunk)
                    self._progress.add(len(chunk))
                    if file.size is not None and content.tell() > file.size:
                        return False
        return await asyncio.to_thread(_matches, file, partial)

    def _partial(self, file: RemoteFile) -> Path:
        return self._target / OWN_FOLDER / download.partial_name(file)

    def _url(self, file: RemoteFile, commit: str) -> str:
        return self._options.endpoint + self._source.file_path(commit, file.path)

    async def _persistently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._patiently(attempt, self._options.patience)
        except _Transient as error:
            raise Failed(f"{self._source} cannot be fetched from {self._options.endpoint}: {error}.") from error

    async def _patiently(self, attempt: Callable[[], Awaitable[T]], patience: float) -> T:
        """Try again after what may pass, as long as any byte has come within so many seconds."""
        failures = 0
        started = clock.monotonic()
        for _ in range(MAX_TRIES):
            received = self._progress.received
            try:
                return await attempt()
            except _Transient as error:
                failures = failures + 1 if self._progress.received == received else 1
                delay = download.pause(failures, error.retry_after) * random.uniform(0.75, 1.0)  # noqa: S311
                quiet_since = max(started, self._progress.moved_at)
                if clock.monotonic() + delay > quiet_since + patience:
                    raise
                self._log("trying again", level="warning", error=str(error), delay=round(delay, 2))
            await asyncio.sleep(delay)
        raise _Transient(f"{MAX_TRIES} tries in a row were cut short")

    @asynccontextmanager
    async def _answer(
        self, method: str, url: str, *, path: str | None = None, headers: dict[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Yield an answer that brings content (or, to HEAD, says where it is); everything else is raised."""
        try:
            # Following a redirect to another host, httpx leaves the token behind.
            async with self._client.stream(method, url, headers=headers, follow_redirects=method != "HEAD") as answer:
                status = answer.status_code
                if download.is_transient(status):
                    raise _Transient(f"status {status}", answer.headers.get("retry-after"))
                if status >= 400 and status != 416:
                    raise download.refusal(
                        status,
                        source=self._source,
                        endpoint=self._options.endpoint,
                        has_token=self._options.token is not None,
                        path=path,
                    )
                yield answer
        except httpx.TransportError as error:
            raise _Transient(f"{type(error).__name__} {error}".strip()) from error
        except (httpx.TooManyRedirects, httpx.InvalidURL, httpx.DecodingError) as error:
            raise Failed(f"{self._options.endpoint} gives an answer that cannot be followed: {error}.") from error


def _client(options: Options) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers={
            "User-Agent": f"lull/{__version__}",
            # Sizes, ranges and checksums are those of the plain content.
            "Accept-Encoding": "identity",
            **({"Authorization": f"Bearer {options.token}"} if options.token is not None else {}),
        },
        timeout=httpx.Timeout(options.silence, connect=min(10.0, options.silence)),
        limits=httpx.Limits(max_connections=2 * options.parallel),
    )


@contextmanager
def _disk(target: Path) -> Iterator[None]:
    """Turn failures of the file system inside the block into sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"No room is left in {target}.") from error
        raise Failed(f"Cannot write to {target}: {error.strerror or error}.") from error


@contextmanager
def _first_failure() -> Iterator[None]:
    """One file's failure ends all; it is raised as itself."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from group


def _matches(file: RemoteFile, path: Path) -> bool:
    if file.size is not None and _size(path) != file.size:
        return False
    if file.checksum is None:
        return True
    digest = download.hasher(file)
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == file.checksum.hex


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read_marker(target: Path) -> Marker | None:
    try:
        return download.parse_marker(json.loads((target / MARKER).read_bytes()))
    except (FileNotFoundError, ValueError):
        return None


def _write_marker(target: Path, marker: Marker) -> None:
    path = target / MARKER
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(download.render_marker(marker), indent=1) + "\n")
    draft.replace(path)


def _render_bytes(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
