"""Stop when another process is lost: torch's timeouts cannot tell a lost process from a slow one.

A thread all-reduces a small tensor every 2 seconds, in a process group of its own
whose timeout is 30 seconds. The thread keeps beating while its process reads, packs or writes for hours;
it stops with its process, its machine or the network. In the training's own process group a timeout
of 30 seconds would end such a slow process, and a long one would hide a loss.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from histo.errors import HistoError

BEAT, SILENCE = 2.0, 30.0
"""Seconds between two beats, and until a process that does not answer counts as lost."""
LOST = "another process of the launch is lost"
WAYS = ("start all of them again: a training with resume, or the same predict or evaluate",)


def end(why: str) -> None:
    """Exit this process at once, whatever it waits for, with one line and status 1."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"error: {why}\n".encode())
    os._exit(1)


@contextmanager
def watching() -> Iterator[None]:
    """Watch the other processes; on exit, wait for all of them, or report a failure to them.

    Raises HistoError in place of torch's own error for a lost process.
    """
    heartbeat = Heartbeat()
    heartbeat.start()
    try:
        yield
    except RuntimeError:
        if heartbeat.lost.wait(2 * BEAT):
            raise HistoError(LOST, *WAYS) from None
        heartbeat.failed = True
        raise
    except HistoError as error:  # already reported by another process: not a failure of this one
        heartbeat.failed = not error.said_elsewhere
        raise
    except BaseException:
        heartbeat.failed = True
        raise
    finally:
        heartbeat.left.set()
        heartbeat.join()


class Heartbeat(threading.Thread):
    """The thread that beats; exits the process if another has failed or does not answer."""

    def __init__(self) -> None:
        import torch.distributed as dist

        super().__init__(daemon=True)
        self.group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=SILENCE))
        self.left, self.lost, self.failed = threading.Event(), threading.Event(), False

    def run(self) -> None:
        """Beat until the end; after a loss, give this process a moment to exit with its own message."""
        if not self.all_leave():
            self.lost.set()
            if not self.left.wait(BEAT):
                end(str(HistoError(LOST, *WAYS)))

    def all_leave(self) -> bool:
        """Beat until every process has left (True), or one has failed or is lost (False)."""
        import torch
        import torch.distributed as dist

        while True:
            self.left.wait(BEAT)
            left = self.left.is_set()  # before `failed`, which is set first
            counts = torch.tensor([int(self.failed), int(left)])
            try:
                dist.all_reduce(counts, group=self.group)
            except RuntimeError:
                return False
            failed, gone = counts.tolist()
            if failed or gone == dist.get_world_size():
                return not failed
