"""Getting single files from a store, whole and checked, however often the way breaks."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, TypeVar

from lull.doors import clock
from lull.fetcher import disk, download
from lull.fetcher.failures import Failed, Transient, Unreachable
from lull.fetcher.snapshot import OWN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from lull.fetcher.lock import Progress
    from lull.fetcher.options import Options
    from lull.fetcher.remote import Remote
    from lull.fetcher.snapshot import RemoteFile, Snapshot
    from lull.fetcher.sources import Source

T = TypeVar("T")

MAX_TRIES: Final = 50
"""Tries for one file. Each continues where the one before was cut, so this ends only a store that cannot continue."""
MAX_MISMATCHES: Final = 3
"""Tries for a file whose content is not what the store's checksum says."""
_WRONG_SIZE: Final = "another size"


class Transfer:
    """One source's files on their way into one folder."""

    def __init__(
        self,
        source: Source,
        remote: Remote,
        target: Path,
        options: Options,
        progress: Progress,
        log: Callable[..., None],
    ) -> None:
        self._source = source
        self._remote = remote
        self._target = target
        self._options = options
        self._progress = progress
        self._log = log
        self._version = ""
        self._has_true_md5s = True

    async def list(self) -> Snapshot:
        try:
            snapshot = await self._patiently(self._remote.list)
        except Transient as error:
            raise Unreachable(f"{self._remote.name} cannot be reached: {error}.") from error
        self._version = snapshot.version
        return snapshot

    async def describe(self, file: RemoteFile) -> RemoteFile:
        """Learn a file's size and checksum, where the listing left them out."""
        return await self._persistently(lambda: self._remote.describe(file, self._version))

    def partial(self, file: RemoteFile) -> Path:
        """Where a file lies until it is whole."""
        return self._target / OWN_FOLDER / download.partial_name(file)

    async def bring(self, file: RemoteFile, destination: Path) -> None:
        """Download one file and give it its name, once it is whole and checked."""
        partial = self.partial(file)
        fault: str | None = None
        for _ in range(MAX_MISMATCHES):
            fault, before = await self._persistently(lambda: self._receive(file)), fault
            if fault is not None and fault == before != _WRONG_SIZE and file.checksum and file.checksum.kind == "md5":
                # S3 gives objects that it encrypts with a customer's key an ETag that only looks like an MD5.
                self._has_true_md5s = False
                self._log("ETags are no checksums here", level="warning", file=file.path)
                fault = None
            with disk.disk(self._target):
                if fault is None:
                    await asyncio.to_thread(disk.settle, partial, destination)
                    return
                partial.unlink(missing_ok=True)
            self._log("wrong content", level="warning", file=file.path)
        raise Failed(
            f"{file.path} of {self._source} came {MAX_MISMATCHES} times with a wrong size or checksum: "
            f"{self._remote.name}, or something on the way to it, is broken."
        )

    async def _receive(self, file: RemoteFile) -> str | None:
        """Receive what is missing of a file; None where the whole is what the store promised. Transient keeps the part.

        Otherwise what the fault is: the size, or the digest that the content has instead.
        """
        partial = self.partial(file)
        with disk.disk(self._target):
            # An empty file is whole before anything is asked for.
            partial.touch()
            asked = disk.size(partial)
        if file.size is None or asked < file.size:
            async with self._remote.open(file, self._version, asked) as content:
                if content.offset is None:
                    return _WRONG_SIZE
                with disk.disk(self._target), partial.open("r+b" if content.offset else "wb") as written:
                    written.seek(content.offset)
                    async for chunk in content.chunks:
                        # In a thread, so that a slow disk does not hold up the other downloads.
                        await asyncio.to_thread(written.write, chunk)
                        self._progress.add(len(chunk))
                        if file.size is not None and written.tell() > file.size:
                            return _WRONG_SIZE
        return await asyncio.to_thread(self._fault, file, partial)

    def _fault(self, file: RemoteFile, path: Path) -> str | None:
        if file.size is not None and disk.size(path) != file.size:
            return _WRONG_SIZE
        checksum = file.checksum
        if checksum is None or not checksum.is_computable or (checksum.kind == "md5" and not self._has_true_md5s):
            return None
        digest = disk.digest(file, path)
        return None if digest == checksum.hex else digest

    async def _persistently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._patiently(attempt)
        except Transient as error:
            raise Unreachable(f"{self._source} cannot be fetched from {self._remote.name}: {error}.") from error

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again after what may pass, as long as any byte has come within so many seconds."""
        failures = 0
        started = clock.monotonic()
        for _ in range(MAX_TRIES):
            received = self._progress.received
            try:
                return await attempt()
            except Transient as error:
                failures = failures + 1 if self._progress.received == received else 1
                delay = download.pause(failures, error.retry_after) * random.uniform(0.75, 1.0)  # noqa: S311
                quiet_since = max(started, self._progress.moved_at)
                if clock.monotonic() + delay > quiet_since + self._options.patience:
                    raise
                self._log("trying again", level="warning", error=str(error), delay=round(delay, 2))
            await asyncio.sleep(delay)
        raise Transient(f"{MAX_TRIES} tries in a row were cut short")
