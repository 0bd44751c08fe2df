"""Processes are known by number and start."""

import os
from pathlib import Path

from e2e.cluster import processes
from e2e.cluster.processes import Process, parse_cmdline, parse_stat


def test_reads_state_and_start_behind_a_name_with_brackets_and_spaces() -> None:
    fields = " ".join(str(number) for number in range(4, 40))

    assert parse_stat(f"12 (a) b (c)) S {fields}") == ("S", 22)


def test_a_kernel_thread_has_no_command_line() -> None:
    assert parse_cmdline(b"") == []
    assert parse_cmdline(b"etcd\0--name=a b\0") == ["etcd", "--name=a b"]


def test_a_number_that_was_used_again_is_another_process() -> None:
    started = processes.started_at(os.getpid())
    assert started is not None

    assert processes.is_running(Process(os.getpid(), started))
    assert not processes.is_running(Process(os.getpid(), started - 1))


def test_does_not_kill_a_stranger_that_has_the_number_now() -> None:
    processes.kill([Process(os.getpid(), 1)])


def test_starts_a_process_that_nobody_waits_for_and_kills_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = processes.start(
        ["sh", "-c", f"echo said; exec sleep 30 # {tmp_path}"], log=log, environment=os.environ, cwd=tmp_path
    )
    assert processes.is_running(started)

    processes.kill([started])

    assert not processes.is_running(started)
