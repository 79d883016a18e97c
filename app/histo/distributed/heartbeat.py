"""Processes of a launch that watch over each other: a loss ends all of them, and none hangs.

Each counts up a number of its own in the launcher's key-value store, and looks at those of the
others. A collective operation would not do: it cannot tell a slow process from a lost one, and on
a cut line it waits for ever.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from histo.distributed import ranks

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

BEAT, SILENCE, RENDEZVOUS = 2.0, 30.0, 600.0
"""Seconds: between two beats; until a process that is silent is lost; for all to come together."""
LOST = (
    "another process of the launch is lost (start all of them again: a training with resume, or the "
    "same predict or evaluate)"
)
DONE, FAILED = "done", "failed"
SIGNS = ("gloo", "NCCL", "Connection closed", "Connection reset", "recvBytes", "Broken pipe")
"""What PyTorch's communication errors hold: most are plain RuntimeErrors."""


def is_loss(error: RuntimeError) -> bool:
    """Whether an error says that another process, or the line to it, is gone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in SIGNS)


def end(why: str) -> None:
    """End this process now, whatever it waits for, with one line and status 1."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"error: {why}\n".encode())
    os._exit(1)


@contextmanager
def must_end_within(seconds: float, otherwise: str) -> Iterator[None]:
    """End the process where what is within takes longer."""
    timer = threading.Timer(seconds, end, [f"{otherwise} within {seconds:g} seconds"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def watching() -> Iterator[None]:
    """Beat, and watch the others beat; leaving says whether this process is done or has failed."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=BEAT * 5),
    )
    rank, world = ranks.rank(), ranks.world_size()
    store.set(_key(rank), "0")
    ranks.barrier()  # now every key is there
    beats = Beats([""] * world, [time.monotonic()] * world)
    left = threading.Event()
    for work in (partial(_beat, store, beats, rank), partial(_watch, beats)):
        threading.Thread(target=work, args=(left,), daemon=True).start()
    last = FAILED
    try:
        yield
        last = DONE
    finally:
        left.set()
        with suppress(RuntimeError):
            store.set(_key(rank), last)


@dataclass
class Beats:
    """Of each process the last beat, and when another than before was heard."""

    last: list[str]
    heard: list[float]


def _key(rank: int) -> str:
    return f"histo/beat/{rank}"


def _beat(store: Store, beats: Beats, rank: int, left: threading.Event) -> None:
    """Beat and listen. On a cut line a call may come back late, with an error, or never."""
    keys = [_key(number) for number in range(len(beats.last))]
    count = 0
    while not left.wait(BEAT):
        count += 1
        with suppress(RuntimeError):
            store.set(keys[rank], str(count))
            for number, said in enumerate(store.multi_get(keys)):
                beat = said.decode()
                if beat != beats.last[number] or beat == DONE:
                    beats.last[number], beats.heard[number] = beat, time.monotonic()


def _watch(beats: Beats, left: threading.Event) -> None:
    """End the process where another has failed, or has not been heard for too long."""
    while not left.wait(BEAT):
        if FAILED in beats.last or time.monotonic() - min(beats.heard) > SILENCE:
            if not left.wait(BEAT):  # what this process says of it itself is better
                end(LOST)
            return
