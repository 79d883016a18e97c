"""Rank and world size without importing torch, which takes seconds; and collective operations.

Without a launcher there is one process, of rank 0, and every function here returns at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

from histo import launcher
from histo.errors import HistoError

T = TypeVar("T")
rank, world_size = launcher.rank, launcher.world_size
local_rank, local_world_size = launcher.local_rank, launcher.local_world_size
START = timedelta(minutes=10)
"""Time within which all processes must start."""
PATIENCE = timedelta(days=30)
"""Timeout of collective operations: long, for slow processes; `heartbeat` detects lost ones."""


def cores() -> int:
    """How many CPU cores this process may use: its share of the cores that the machine allows."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        allowed = os.cpu_count() or 1
    return max(1, allowed // local_world_size())


@contextmanager
def process_group(start: timedelta = START) -> Iterator[None]:
    """Connect the processes of the launch, which must all call this within the time `start`.

    If later a process dies or its machine cannot be reached, each of the others exits within a
    minute, with one line and status 1.
    """
    if world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    from histo.distributed import heartbeat

    missing = f"the other processes of the launch did not start within {start}"
    timer = threading.Timer(start.total_seconds(), heartbeat.end, [missing])
    timer.daemon = True
    timer.start()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    timer.cancel()
    try:
        with heartbeat.watching():
            yield
    finally:
        dist.destroy_process_group()


def broadcast(make: Callable[[], T]) -> T:
    """Rank 0's result of `make`, in every process; its HistoError is raised in every process."""
    if world_size() == 1:
        return make()
    import torch.distributed as dist

    made: list[T | HistoError | None] = [None]
    if rank() == 0:
        try:
            made = [make()]
        except HistoError as error:
            made = [error]
    dist.broadcast_object_list(made, src=0)
    if isinstance(made[0], HistoError):
        made[0].said_elsewhere = rank() > 0
        raise made[0]
    return made[0]  # type: ignore[return-value]


def any_rank(flag: bool) -> bool:
    """Whether the flag is true in any process; every process must call this."""
    if world_size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def barrier() -> None:
    """Wait for every process of the launch, however slow."""
    if world_size() == 1:
        return
    import torch.distributed as dist

    with nullcontext() if dist.is_initialized() else process_group(PATIENCE):
        any_rank(False)  # torch's own barrier would use NCCL if there are GPUs
