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
from datetime import timedelta
from typing import TYPE_CHECKING

from histo import ranks

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

BEAT, SILENCE, RENDEZVOUS = 2.0, 30.0, 600.0
"""Seconds: between two beats; until a process that is silent is lost; for all to come together."""
LOST = (
    "another process of the launch is lost (start all of them again: histo train --resume RUN, or "
    "the same predict or evaluate)"
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
    rank, world = ranks.rank(), ranks.world()
    store.set(_key(rank), "0")
    ranks.any_of(False)  # they have all come here: every key is there
    left = threading.Event()
    thread = threading.Thread(target=_watch, args=(store, rank, world, left), daemon=True)
    thread.start()
    last = FAILED
    try:
        yield
        last = DONE
    finally:
        left.set()
        thread.join()
        with suppress(RuntimeError):
            store.set(_key(rank), last)


def _key(rank: int) -> str:
    return f"histo/beat/{rank}"


def _watch(store: Store, rank: int, world: int, left: threading.Event) -> None:
    keys = [_key(number) for number in range(world)]
    beats, reached, count = [""] * world, [time.monotonic()] * world, 0
    while not left.wait(BEAT):
        count += 1
        with suppress(RuntimeError):  # the store out of reach: then nobody is heard of
            store.set(keys[rank], str(count))
            now, before = store.multi_get(keys), beats
            beats = [beat.decode() for beat in now]
            changed = [new != old or new == DONE for new, old in zip(beats, before, strict=True)]
            at = time.monotonic()
            reached = [at if c else then for c, then in zip(changed, reached, strict=True)]
        if FAILED in beats or time.monotonic() - min(reached) > SILENCE:
            if not left.wait(BEAT):  # what this process says of it itself is better
                end(LOST)
            return
