"""Ports for servers that must be told one."""

from __future__ import annotations

import itertools
import os
import socket

_FIRST = 20_000
_OF_A_PROCESS = 1_000

_numbers = itertools.count(os.getpid())


def free_port() -> int:
    """A port that nobody listens on, and that nobody is given before it is used.

    The system gives connections any port of a range above these, and each of the processes that tests run in has a
    range of its own.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
    for number in itertools.islice(_numbers, _OF_A_PROCESS):
        port = _FIRST + process * _OF_A_PROCESS + number % _OF_A_PROCESS
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    raise OSError("no port is free")
