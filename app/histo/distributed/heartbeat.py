"""End this process when another is lost: torch's timeouts cannot tell a lost process from a slow one.

A thread adds up a small tensor over all processes every 2 seconds, in a process group of its own
whose timeout is 30 seconds. The thread goes on while its process reads, packs or writes for hours;
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
"""Seconds between two beats, and until a process that does not answer is lost."""
LOST = "another process of the launch is lost"
WAYS = ("start all of them again: a training with resume, or the same predict or evaluate",)


def end(why: str) -> None:
    """End this process now, whatever it waits for, with one line and status 1."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"error: {why}\n".encode())
    os._exit(1)


@contextmanager
def watching() -> Iterator[None]:
    """Watch the other processes; leaving waits until all leave, or tells them of a failure.

    HistoError in place of the error that torch raises where it reaches a lost process first.
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
    except HistoError as error:  # said elsewhere: all processes stop, and this one is done first
        heartbeat.failed = not error.said_elsewhere
        raise
    except BaseException:
        heartbeat.failed = True
        raise
    finally:
        heartbeat.left.set()
        heartbeat.join()


class Heartbeat(threading.Thread):
    """The thread that beats; ends the process where another has failed or does not answer."""

    def __init__(self) -> None:
        import torch.distributed as dist

        super().__init__(daemon=True)
        self.group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=SILENCE))
        self.left, self.lost, self.failed = threading.Event(), threading.Event(), False

    def run(self) -> None:
        """Beat to the end; after a loss this process has a moment to end with a line of its own."""
        if not self.all_leave():
            self.lost.set()
            if not self.left.wait(BEAT):
                end(str(HistoError(LOST, *WAYS)))

    def all_leave(self) -> bool:
        """Beat until every process has left: true. False as soon as one has failed or is lost."""
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
