"""What the launcher of several processes says in the environment: rank and world size.

The variables are those that torchrun and `accelerate launch` set. Without a launcher there is one
process, of rank 0.
"""

from __future__ import annotations

import os


def rank() -> int:
    """The number of this process in the launch, from 0. Rank 0 alone prints and writes files."""
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


def _number(name: str, alone: int) -> int:
    """A launcher's variable; RANK alone, which some systems set, does not count."""
    launched = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    return int(os.environ.get(name, alone)) if launched else alone
