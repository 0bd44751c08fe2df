"""A client that sends any bytes, and reads what comes back as strictly as the standard is written."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

QUIET: Final = 0.25
"""Seconds of silence after which an open connection is taken to have said all."""
PATIENCE: Final = 8.0
"""Seconds without any sign of life after which an answer is missing."""

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [\x20-\x7e]*")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*))?")
_BODILESS: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    """All of the body came, by what the head says of its length."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back for some bytes, and whether the gateway closed the connection after it."""

    answers: tuple[Answer, ...]
    closed: bool
    malformed: str = ""
    """What of it no standard client would take."""

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(answer.status for answer in self.answers)


async def say(port: int, *pieces: bytes, pause: float = 0.0, quiet: float = QUIET, patience: float = PATIENCE) -> Heard:
    """Send, with a pause between pieces, and listen until the gateway closes or has been quiet for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        heard = asyncio.ensure_future(listen(reader, quiet=quiet, patience=patience))
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
        except ConnectionError:
            pass  # it has heard enough, which is an answer too
        return await heard
    finally:
        writer.close()


async def listen(reader: asyncio.StreamReader, *, quiet: float = QUIET, patience: float = PATIENCE) -> Heard:
    """Read until it is closed, or silent for a while."""
    heard = bytearray()
    try:
        while True:
            async with asyncio.timeout(quiet if heard else patience):
                chunk = await reader.read(1 << 16)
            if not chunk:
                return _understand(bytes(heard), closed=True)
            heard += chunk
    except TimeoutError:
        return _understand(bytes(heard), closed=False)
    except ConnectionError:
        return _understand(bytes(heard), closed=True)


def parse_answers(heard: bytes) -> Iterable[Answer]:
    """Split into answers; AssertionError where they are not exactly as a standard client needs them."""
    rest = heard
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        assert end, f"half a head: {head[:200]!r}"
        line, fields = split_head(head)
        status = _STATUS.fullmatch(line)
        assert status, f"no status line: {line[:200]!r}"
        headers = {name: value.decode("latin-1") for name, value in fields.items()}
        body, whole, rest = _take_body(int(status[1]), headers, rest)
        yield Answer(int(status[1]), headers, body, whole)


def split_head(head: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The first line, and what the others say; AssertionError where readers could disagree about it."""
    line, *rest = head.split(b"\r\n")
    fields: dict[str, bytes] = {}
    for field in rest:
        found = _FIELD.fullmatch(field)
        assert found, f"no header: {field[:200]!r}"
        name = found[1].decode().lower()
        assert name not in fields, f"{name} twice"
        fields[name] = found[2] or b""
    return line, fields


def _understand(heard: bytes, *, closed: bool) -> Heard:
    try:
        return Heard(tuple(parse_answers(heard)), closed)
    except AssertionError as error:
        return Heard((), closed, str(error))


def _take_body(status: int, headers: dict[str, str], rest: bytes) -> tuple[bytes, bool, bytes]:
    assert not ("content-length" in headers and "transfer-encoding" in headers), "two lengths"
    if status < 200 or status in _BODILESS:
        return b"", True, rest
    if headers.get("transfer-encoding") == "chunked":
        return _take_chunks(rest)
    if "content-length" in headers:
        length = int(headers["content-length"])
        return rest[:length], len(rest) >= length, rest[length:]
    assert headers.get("connection") == "close", "no length and no end"
    return rest, True, b""


def _take_chunks(rest: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while rest:
        size, end, rest = rest.partition(b"\r\n")
        length = int(size, 16) if end else 0
        if not end or len(rest) < length + 2:
            return body + rest[:length], False, b""
        body, rest, ending = body + rest[:length], rest[length + 2 :], rest[length : length + 2]
        assert ending == b"\r\n", f"a chunk's end is {ending!r}"
        if length == 0:
            return body, True, rest
    return body, False, b""
