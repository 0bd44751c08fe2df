"""Fetching itself: list, compare with what is there, bring what is missing, leave a marker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import asynccontextmanager, contextmanager
from threading import Event
from typing import TYPE_CHECKING, Final

from lull.core.sizing import check_model
from lull.doors import clock
from lull.fetcher import archives, disk
from lull.fetcher.download import Marker
from lull.fetcher.failures import Contradiction, Failed, NotFound
from lull.fetcher.hub import connect_hub
from lull.fetcher.lock import Lock, Lost, Progress
from lull.fetcher.objects import Objects
from lull.fetcher.registry import connect_registry
from lull.fetcher.snapshot import ADAPTER_CONFIG, CONFIG, OWN_FOLDER, RemoteFile, choose, is_useful, stays_inside
from lull.fetcher.sources import HubSource, MountedSource, RegistrySource
from lull.fetcher.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lull.fetcher.options import Options
    from lull.fetcher.remote import Remote
    from lull.fetcher.snapshot import Snapshot
    from lull.fetcher.sources import ObjectSource, Source

    Log = Callable[..., None]
    """Takes an event and its fields."""

SMALL: Final = 64 << 20
"""Archives up to this size are looked into before larger ones are fetched: the config.json may be in there."""
MAX_CONFIG: Final = 4 << 20
_UNPACKED: Final = "unpacked"
# One of these makes a folder a model's, or an adapter's.
_MODEL_FILES: Final = (CONFIG, "params.json", ADAPTER_CONFIG)


async def fetch(source: Source, target: Path, options: Options, log: Log) -> None:
    """Bring the files of a source into a folder; Failed says why it cannot be done.

    Each file appears under its name only when it is whole and checked. What a run that was cut short has got is
    continued by the next one. Of runs that share the folder one fetches, and the others wait for it.
    """
    started = clock.monotonic()
    if isinstance(source, MountedSource):
        _verify_mounted(source, target)
        _check_config(target / CONFIG, options)
        log("complete", source=str(source), received=0)
        return
    progress = Progress()
    marker = _find_finished(source, target) or await _fetch_alone(source, target, options, log, progress)
    _check_config(target / CONFIG, options)
    seconds = clock.monotonic() - started
    log(
        "complete",
        source=str(source),
        version=marker.version,
        files=len(marker.files),
        bytes=sum(file.size or 0 for file in marker.files),
        received=progress.received,
        seconds=round(seconds, 3),
        bytesPerSecond=round(progress.received / max(seconds, 1e-3)),
    )


async def _fetch_alone(
    source: HubSource | ObjectSource | RegistrySource, target: Path, options: Options, log: Log, progress: Progress
) -> Marker:
    """Fetch while no other run does, or wait for the one that does."""
    with disk.disk(target):
        (target / OWN_FOLDER).mkdir(parents=True, exist_ok=True)
        lock = Lock(target / OWN_FOLDER, options, progress, log)
        while True:
            try:
                has_lock = await lock.acquire(lambda: _find_finished(source, target) is not None)
                if (marker := _find_finished(source, target)) is not None:
                    return marker
                if has_lock:
                    with _first_failure():
                        async with asyncio.TaskGroup() as tasks, _connect(source, options) as remote:
                            beating = tasks.create_task(lock.beat())
                            transfer = Transfer(source, remote, target, options, progress, log)
                            marker = await _Fetch(source, target, options, log, progress).run(transfer)
                            beating.cancel()
                            return marker
            except Lost:
                log("lock lost", level="warning")
            finally:
                lock.release()


class _Fetch:
    """One run of the fetcher that has the folder to itself."""

    def __init__(self, source: Source, target: Path, options: Options, log: Log, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._own = target / OWN_FOLDER
        self._options = options
        self._log = log
        self._progress = progress
        self._unpacking = asyncio.Lock()

    async def run(self, transfer: Transfer) -> Marker:
        """Make the target hold what an engine needs of the source, and nothing of an earlier state of it."""
        snapshot = await transfer.list()
        _refuse_strays(self._source, snapshot)
        useful = [file for file in snapshot.files if is_useful(file.path)]
        files: Sequence[RemoteFile] = [
            await transfer.describe(file) for file in (useful if snapshot.archives else choose(useful))
        ]
        packed = [file for file in snapshot.archives if not (self._unpacked(file) / archives.INDEX).is_file()]
        record = self._read_record()
        missing = [file for file in files if not await self._is_present(file, record)]
        self._clean(transfer, files, [*missing, *packed], record)
        self._reserve(transfer, files, missing, packed)
        self._log(
            "fetching",
            source=str(self._source),
            version=snapshot.version,
            files=len(files) + len(snapshot.archives),
            missing=len(missing) + len(packed),
            bytes=self._progress.total,
            present=self._progress.present,
        )
        await self._bring_all(transfer, missing, packed)
        if snapshot.archives:
            files = await asyncio.to_thread(self._assemble, files, snapshot.archives)
        finished = (RemoteFile(file.path, disk.size(self._target / file.path), file.checksum) for file in files)
        marker = Marker(str(self._source), snapshot.version, tuple(finished))
        disk.write_marker(self._target, marker)
        shutil.rmtree(self._own / _UNPACKED, ignore_errors=True)
        return marker

    async def _bring_all(self, transfer: Transfer, missing: Sequence[RemoteFile], packed: Sequence[RemoteFile]) -> None:
        """Bring the config.json first: where it rules out what is asked for, the weights need not come."""

        async def bring(file: RemoteFile) -> None:
            await transfer.bring(file, self._target / file.path)
            disk.append_record(self._target, file)

        async def bring_archive(file: RemoteFile) -> None:
            layer = self._layer(file)
            if disk.size(layer) != file.size:
                await transfer.bring(file, layer)
            stopped = Event()
            try:
                async with self._unpacking:
                    await asyncio.to_thread(archives.unpack, layer, self._unpacked(file), stopped)
            finally:
                stopped.set()
            layer.unlink()
            if (config := archives.find_config(archives.read_index(self._unpacked(file)))) is not None:
                _check_config(self._unpacked(file) / str(config.number), self._options)

        async with self._reported():
            await self._together(bring, [file for file in missing if file.path == CONFIG])
            _check_config(self._target / CONFIG, self._options)
            await self._together(bring_archive, [file for file in packed if (file.size or 0) <= SMALL])
            await self._together(bring_archive, [file for file in packed if (file.size or 0) > SMALL])
            await self._together(bring, [file for file in missing if file.path != CONFIG])

    async def _together(self, bring: Callable[[RemoteFile], Awaitable[None]], files: Iterable[RemoteFile]) -> None:
        slots = asyncio.Semaphore(self._options.parallel)

        async def bring_one(file: RemoteFile) -> None:
            async with slots:
                await bring(file)

        with _first_failure():
            async with asyncio.TaskGroup() as downloads:
                # The largest first: what arrives last should be small.
                for file in sorted(files, key=lambda file: -(file.size or 0)):
                    downloads.create_task(bring_one(file))

    @asynccontextmanager
    async def _reported(self) -> AsyncIterator[None]:
        """Say now and then how far it is and how fast it goes."""

        async def report() -> None:
            while True:
                before, since = self._progress.received, clock.monotonic()
                await asyncio.sleep(self._options.report_every)
                rate = (self._progress.received - before) / (clock.monotonic() - since)
                self._log(
                    "progress", present=self._progress.here, bytes=self._progress.total, bytesPerSecond=round(rate)
                )

        with _first_failure():
            async with asyncio.TaskGroup() as tasks:
                reporter = tasks.create_task(report())
                yield
                reporter.cancel()

    def _read_record(self) -> dict[str, RemoteFile]:
        marker = disk.read_marker(self._target)
        finished = {file.path: file for file in marker.files} if marker is not None else {}
        return finished | disk.read_record(self._target)

    async def _is_present(self, file: RemoteFile, record: Mapping[str, RemoteFile]) -> bool:
        """Whether the file is here: by the record, else by reading it, which is cheaper than the network."""
        path = self._target / file.path
        if file.checksum is None or not disk.is_whole(self._target, file):
            return False
        if record.get(file.path) == RemoteFile(file.path, disk.size(path), file.checksum):
            return True
        return file.checksum.is_computable and await asyncio.to_thread(disk.digest, file, path) == file.checksum.hex

    def _clean(
        self,
        transfer: Transfer,
        files: Iterable[RemoteFile],
        pending: Iterable[RemoteFile],
        record: Mapping[str, RemoteFile],
    ) -> None:
        """Remove what another state of the source left: engines load every weight file that they see."""
        wanted = {file.path for file in files}
        kept = {transfer.partial(file) for file in pending} | {self._layer(file) for file in pending}
        (self._target / disk.MARKER).unlink(missing_ok=True)
        for name in record:
            if name not in wanted and stays_inside(name):
                (self._target / name).unlink(missing_ok=True)
        for path in (*self._own.glob("*.partial"), *self._own.glob("*.layer")):
            if path not in kept:
                path.unlink(missing_ok=True)
        disk.write_record(self._target, (file for file in record.values() if file.path in wanted))

    def _reserve(
        self,
        transfer: Transfer,
        files: Iterable[RemoteFile],
        missing: Iterable[RemoteFile],
        packed: Sequence[RemoteFile],
    ) -> None:
        """Fail before the first byte where the files cannot fit."""
        pending = [
            (file, disk.size(transfer.partial(file)) + disk.size(self._layer(file))) for file in (*missing, *packed)
        ]
        needed = sum(max(0, (file.size or 0) - here) for file, here in pending)
        self._progress.total = sum(file.size or 0 for file in (*files, *packed))
        self._progress.present = self._progress.total - needed
        # An archive lies beside what has been unpacked of it until all of it has.
        unpacking = max((file.size or 0 for file in packed), default=0)
        disk.reserve(self._target, needed + unpacking, str(self._source))

    def _assemble(self, files: Sequence[RemoteFile], packed: Iterable[RemoteFile]) -> Sequence[RemoteFile]:
        """Give what was unpacked its names."""
        tree = archives.overlay(archives.read_index(self._unpacked(file)) for file in packed)
        has_config = any(file.path in {CONFIG, ADAPTER_CONFIG} for file in files)
        model = archives.find_model(tree, at_the_root=has_config)
        chosen = choose([*files, *(RemoteFile(path, entry.size) for path, entry in model.items())])
        names: dict[Path, list[Path]] = {}
        for file in chosen:
            if file.path in model:
                entry = model[file.path]
                names.setdefault(self._own / _UNPACKED / entry.folder / str(entry.number), []).append(
                    self._target / file.path
                )
        for numbered, (first, *others) in names.items():
            # A run that was cut short may have done this one already.
            if numbered.exists():
                disk.settle(numbered, first)
            for other in others:
                other.parent.mkdir(parents=True, exist_ok=True)
                other.unlink(missing_ok=True)
                os.link(first, other)
        if lost := [file.path for file in chosen if not disk.is_whole(self._target, file)]:
            shutil.rmtree(self._own / _UNPACKED)
            raise Failed(f"{lost[0]} of {self._source} was unpacked and is gone: fetch it again.")
        for name in {file.path for file in files} - {file.path for file in chosen}:
            (self._target / name).unlink(missing_ok=True)
        return chosen

    def _layer(self, file: RemoteFile) -> Path:
        return self._own / f"{file.checksum.hex if file.checksum else ''}.layer"

    def _unpacked(self, file: RemoteFile) -> Path:
        return self._own / _UNPACKED / (file.checksum.hex if file.checksum else "")


@asynccontextmanager
async def _connect(source: HubSource | ObjectSource | RegistrySource, options: Options) -> AsyncIterator[Remote]:
    if isinstance(source, HubSource):
        async with connect_hub(source, options) as hub:
            yield hub
    elif isinstance(source, RegistrySource):
        async with connect_registry(source, options) as registry:
            yield registry
    else:
        yield Objects(source, options)


def _find_finished(source: Source, target: Path) -> Marker | None:
    """What a run has finished here, as long as every file still has its size."""
    with disk.disk(target):
        marker = disk.read_marker(target)
        if marker is None or marker.source != str(source):
            return None
        return marker if all(disk.is_whole(target, file) for file in marker.files) else None


def _verify_mounted(source: MountedSource, target: Path) -> None:
    if not target.is_dir():
        raise NotFound(f"{source} is no folder in the pod: {target} is not there.")
    if not any((target / name).is_file() for name in _MODEL_FILES):
        raise NotFound(
            f"{source} holds no {CONFIG}: spec.model.source must name the folder that holds the model's files."
        )


def _refuse_strays(source: Source, snapshot: Snapshot) -> None:
    for file in snapshot.files:
        if not stays_inside(file.path):
            raise Failed(f"{source} names a file outside of it, or under a name that cannot be used: {file.path!r}.")


def _check_config(path: Path, options: Options) -> None:
    """Compare a model's config.json, where it has one, with what is asked of it."""
    if options.check is None or not path.is_file():
        return
    try:
        with path.open("rb") as content:
            config = json.loads(content.read(MAX_CONFIG))
    except ValueError as error:
        raise Failed(f"The model's {CONFIG} is not JSON: {error}.") from error
    if isinstance(config, dict) and (sentences := check_model(config, options.check)):
        raise Contradiction(" ".join(sentences))


@contextmanager
def _first_failure() -> Iterator[None]:
    """One task's failure ends all; it is raised as itself."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from group
