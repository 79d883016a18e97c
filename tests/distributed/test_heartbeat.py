"""Two processes of a launch that do little but wait: a lost one ends the other, a slow one does not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

from histo.distributed import heartbeat, ranks
from histo.errors import HistoError, Stopped
from tests.launched import MINUTE, variables

LOST = "error: another process of the launch is lost"
CLEAN = multiprocessing.get_context("forkserver")
"""Forked from a process without threads: a fork of the tests' own could find their locks taken."""
CLEAN.set_forkserver_preload(["torch.distributed", __name__])


def wait_for_the_first():
    time.sleep(5 if ranks.rank() == 0 else 0)
    ranks.barrier()


def wait_for_ever():
    time.sleep(600)


def fail_in_the_second():
    if ranks.rank() == 1:
        raise RuntimeError("a bug")
    ranks.barrier()


def stop_the_first_last():
    """As a training stops: rank 0 writes a checkpoint and says so, the others leave at once."""
    time.sleep(3 if ranks.rank() == 0 else 0)
    stopped = Stopped("stopped, a checkpoint written")
    stopped.said_elsewhere = ranks.rank() > 0
    raise stopped


def run(work: Callable[[], None], environment: dict[str, str], log: Path):
    """One process: connect to the other, work, say an expected problem as the command line does."""
    os.environ.update(environment)
    sys.stderr = log.open("w")
    heartbeat.BEAT, heartbeat.SILENCE = 0.3, 3.0
    try:
        with ranks.process_group():
            log.with_suffix(".connected").touch()
            work()
    except HistoError as error:
        sys.exit("" if error.said_elsewhere else f"error: {error}")


class Forked(NamedTuple):
    """One process, and the file that gets its stderr."""

    process: BaseProcess
    log: Path

    def result(self) -> tuple[int | None, list[str]]:
        """The exit status, and the lines on stderr that say something."""
        self.process.join(MINUTE)
        return self.process.exitcode, [line for line in self.log.read_text().splitlines() if line]


@pytest.fixture
def launch(tmp_path: Path):
    """Start two processes of a launch, each with the same work to do."""
    started: list[Forked] = []

    def start(work: Callable[[], None]) -> list[Forked]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for rank in range(2):
            given = (work, variables(rank, 2, port), log := tmp_path / f"{rank}.log")
            process = CLEAN.Process(target=run, args=given)
            process.start()
            started.append(Forked(process, log))
        return started

    yield start
    for each in started:
        each.process.kill()


@pytest.mark.slow
def test_a_process_that_is_slower_than_the_timeout_is_waited_for(launch):
    assert [each.result() for each in launch(wait_for_the_first)] == [(0, []), (0, [])]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_another_that_is_busy(launch, ending: signal.Signals):
    """One is killed, or stands still as if its machine were out of reach: one line, status 1."""
    stays, goes = launch(wait_for_ever)
    while not all(each.log.with_suffix(".connected").exists() for each in (stays, goes)):
        time.sleep(0.1)
    time.sleep(1)
    os.kill(goes.process.pid or 0, ending)
    begun = time.monotonic()
    status, lines = stays.result()
    assert time.monotonic() - begun < 3 + 10
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(LOST)


def test_a_bug_in_one_is_its_traceback_and_a_line_of_the_other(launch):
    (status, lines), (failed, trace) = (each.result() for each in launch(fail_in_the_second))
    assert (status, failed) == (1, 1)
    assert len(lines) == 1
    assert lines[0].startswith(LOST)
    assert trace[-1] == "RuntimeError: a bug"


@pytest.mark.slow
def test_when_all_stop_the_first_has_time_to_write_its_checkpoint(launch):
    first, other = launch(stop_the_first_last)
    assert first.result() == (1, ["error: stopped, a checkpoint written"])
    assert other.result() == (1, [])
