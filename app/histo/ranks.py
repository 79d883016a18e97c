"""Which of several processes this is, as torchrun and accelerate launch say it: one, without them."""

from __future__ import annotations

import os
from datetime import timedelta


def rank() -> int:
    """The number of this process in the launch, from 0; 0 leads: it alone speaks and joins."""
    return _number("RANK", 0)


def world() -> int:
    """How many processes the launch has, on all machines."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process on its machine, from 0: that of its GPU."""
    return _number("LOCAL_RANK", 0)


def local_world() -> int:
    """How many processes the launch has on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def cores() -> int:
    """The CPU cores that are this process's own: its share of those that the machine lends."""
    try:
        lent = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        lent = os.cpu_count() or 1
    return max(1, lent // local_world())


def meet() -> None:
    """Return when every process of the launch has come here; one that fails never comes.

    The launcher then ends the others, so that nobody waits for it.
    """
    if world() == 1:
        return
    import torch.distributed as dist

    ours = not dist.is_initialized()
    if ours:  # gloo needs no GPU; a slow process may be hours behind
        dist.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        dist.barrier()
    finally:
        if ours:
            dist.destroy_process_group()


def _number(name: str, alone: int) -> int:
    """A launcher's variable; some systems set RANK alone, which launches nothing."""
    launched = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    return int(os.environ.get(name, alone)) if launched else alone
