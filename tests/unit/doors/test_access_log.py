"""Lines are whole, in order, and never waited for."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from lull.doors import clock, logs
from lull.doors.access_log import AccessLog, Logged, Outlet

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def read_all(reading: int) -> bytes:
    content = b""
    while select.select((reading,), (), (), 0)[0]:
        content += os.read(reading, 1 << 20)
    return content


def number(count: int) -> list[bytes]:
    return [b"line %d\n" % one for one in range(count)]


def test_lines_are_written_in_order_when_the_process_ends() -> None:
    with pipe() as (reading, writing):
        outlet = Outlet(writing)
        with outlet.running():
            for line in number(1000):
                outlet.put(line)

        assert read_all(reading) == b"".join(number(1000))
        assert outlet.lost == 0


def test_lines_are_written_while_it_runs() -> None:
    with pipe() as (reading, writing), Outlet(writing).running() as outlet:
        outlet.put(b"one\n")
        assert os.read(reading, 100) == b"one\n"
        outlet.put(b"two\n")
        assert os.read(reading, 100) == b"two\n"


def test_nobody_waits_for_a_reader_that_has_stopped() -> None:
    with pipe() as (reading, writing):
        outlet = Outlet(writing, max_lines=100)
        line = b"x" * 4000 + b"\n"
        with outlet.running():
            sent = 0
            while not outlet.lost:
                outlet.put(line)
                sent += 1

            lines = 0
            while lines < sent - outlet.lost:
                lines += os.read(reading, 1 << 16).count(b"\n")
        assert read_all(reading) == b""


def test_the_end_does_not_wait_for_a_reader_that_has_stopped() -> None:
    reading, writing = os.pipe()
    outlet = Outlet(writing)
    handler = logging.StreamHandler(sys.stdout)
    root = logging.getLogger()
    root.addHandler(handler)
    with logs.through(outlet), outlet.running(last_word_seconds=0.05):
        for _ in range(100):
            outlet.put(b"x" * 4000 + b"\n")
    root.removeHandler(handler)

    assert outlet.is_stuck
    assert handler.stream is outlet
    os.close(reading)
    outlet._writer.join()
    os.close(writing)


def test_a_reader_that_is_gone_costs_the_lines() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    outlet = Outlet(writing)
    with outlet.running():
        outlet.put(b"one\n")
        outlet.put(b"two\n")
    os.close(writing)

    assert outlet.lost == 2


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    with pipe() as (reading, writing):
        os.set_blocking(writing, False)
        outlet = Outlet(writing)
        content: list[bytes] = []

        def read() -> None:
            while sum(len(part) for part in content) < 100 * 4001:
                content.append(os.read(reading, 1 << 16))

        reader = threading.Thread(target=read)
        with outlet.running():
            for _ in range(100):
                outlet.put(b"x" * 4000 + b"\n")
            reader.start()
            reader.join()

        assert outlet.lost == 0


def test_several_writers_tear_no_line() -> None:
    with pipe() as (reading, writing):
        outlets = [Outlet(writing) for _ in range(3)]
        content = bytearray()

        def read() -> None:
            while content.count(b"\n") < 3 * 2000:
                content.extend(os.read(reading, 1 << 16))

        reader = threading.Thread(target=read)
        reader.start()
        for mark, outlet in zip(b"abc", outlets, strict=True):
            with outlet.running():
                for _ in range(2000):
                    outlet.put(bytes([mark]) * 300 + b"\n")
        reader.join()

        assert {len(set(line)) for line in bytes(content).splitlines()} == {1}


@pytest.mark.parametrize(
    ("which", "failed", "wanted"),
    [
        (Logged.ALL, False, True),
        (Logged.ALL, True, True),
        (Logged.ERRORS, False, False),
        (Logged.ERRORS, True, True),
        (Logged.OFF, False, False),
        (Logged.OFF, True, False),
    ],
)
def test_requests_get_a_line_as_is_set(which: Logged, failed: bool, wanted: bool) -> None:
    assert AccessLog(Outlet(1), which).wants(failed=failed) is wanted


def test_a_line_has_the_shape_of_all_others(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    try:
        logs.configure("info")
        outlet = Outlet(1)
        with logs.through(outlet), outlet.running():
            structlog.get_logger("lull.gateway").info("serving", port=1)
            fields = {"event": "request", "level": "info", "logger": "lull.gateway", "timestamp": clock.utc()}
            AccessLog(outlet, Logged.ALL).record({"code": 200, **fields})
        structlog.get_logger("lull.gateway").info("stopped")
        sys.stdout.flush()
        serving, request, stopped = map(json.loads, capfd.readouterr().out.splitlines())
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
        structlog.reset_defaults()

    def shape(line: dict[str, Any]) -> dict[str, Any]:
        assert line["timestamp"].endswith("Z")
        return {key: type(line[key]) for key in ("timestamp", "logger", "level", "event")}

    assert shape(serving) == shape(request) == shape(stopped)
    assert (request["logger"], request["level"]) == (serving["logger"], serving["level"])
    assert request["code"] == 200


def test_half_a_character_is_written_all_the_same() -> None:
    with pipe() as (reading, writing):
        outlet = Outlet(writing)
        with outlet.running():
            AccessLog(outlet, Logged.ALL).record({"path": "/v1/\ud800"})

        assert json.loads(read_all(reading))["path"] == "/v1/\ud800"
