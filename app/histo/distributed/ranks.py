"""Which of several processes this is, as torchrun and accelerate launch say it: one, without them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from histo.errors import HistoError

T = TypeVar("T")
PATIENCE = timedelta(days=30)
"""For a process that is slow, packing a store say; one that is lost is noticed by `heartbeat`."""


def rank() -> int:
    """The number of this process in the launch, from 0; 0 leads: it alone speaks and writes."""
    return _number("RANK", 0)


def world_size() -> int:
    """How many processes the launch has, on all machines."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process on its machine, from 0: that of its GPU."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """How many processes the launch has on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def cores() -> int:
    """The CPU cores that are this process's own: its share of those that the machine lends."""
    try:
        lent = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        lent = os.cpu_count() or 1
    return max(1, lent // local_world_size())


@contextmanager
def process_group() -> Iterator[None]:
    """Be one of the launch's processes: within, they can speak to each other and notice a loss.

    Where one is lost, or its machine out of reach, each of the others ends within a minute with
    one line and status 1.
    """
    if world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    from histo.distributed import heartbeat

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with heartbeat.must_end_within(heartbeat.RENDEZVOUS, "the other processes did not come"):
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        with heartbeat.watching():
            yield
    except RuntimeError as error:
        if not heartbeat.is_loss(error):
            raise
        raise HistoError(heartbeat.LOST) from None
    finally:
        dist.destroy_process_group()


def broadcast(make: Callable[[], T]) -> T:
    """What the first process makes, in every process; where it fails, each fails as it did."""
    if world_size() == 1:
        return make()
    import torch
    import torch.distributed as dist

    made: list[T | HistoError | None] = [None]
    if rank() == 0:
        try:
            made = [make()]
        except HistoError as error:
            made = [error]
    dist.broadcast_object_list(made, src=0, device=torch.device("cpu"))
    if isinstance(made[0], HistoError):
        made[0].said_elsewhere = rank() > 0
        raise made[0]
    return made[0]  # type: ignore[return-value]


def any_rank(flag: bool) -> bool:
    """Whether it is true in any process; all must ask."""
    if world_size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    said = torch.tensor([int(flag)])
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said)


def barrier() -> None:
    """Return when every process of the launch has come here; one that fails never comes.

    The launcher then ends the others, so that nobody waits for it.
    """
    if world_size() == 1:
        return
    import torch.distributed as dist

    ours = not dist.is_initialized()
    if ours:  # gloo needs no GPU; a slow process may be hours behind
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        any_rank(False)  # not a barrier, which NCCL would make
    finally:
        if ours:
            dist.destroy_process_group()


def _number(name: str, alone: int) -> int:
    """A launcher's variable; some systems set RANK alone, which launches nothing."""
    launched = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    return int(os.environ.get(name, alone)) if launched else alone
