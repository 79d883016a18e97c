"""Start this command in N processes by torch's launcher, whose own program prints a page of errors.

Each process has already said its own line, so the launcher's log and traceback are left out.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from histo.errors import HistoError

STOPPING = 600
"""Seconds in which processes that were asked to stop may end by themselves, a checkpoint written."""


def launch(processes: int, device: str) -> int:
    """Run this very command in each process of this machine; the exit status of them all."""
    from torch import cuda
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    present = cuda.device_count()
    if present and device != "cpu" and processes > present:
        raise HistoError(
            f"{processes} devices were asked for: {present} GPUs are here",
            "give a smaller {devices}",
        )
    older = not hasattr(LaunchConfig, "shutdown_timeout")
    stopping: dict[str, Any] = {} if older else {"shutdown_timeout": STOPPING}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        **stopping,
    )
    try:
        with silent(logging.getLogger("torch.distributed.elastic")):
            elastic_launch(config, sys.executable)("-m", "histo", *sys.argv[1:])
    except ChildFailedError as error:
        statuses = [failure.exitcode for failure in error.failures.values()]
        return max(statuses, default=1) if min(statuses, default=1) > 0 else 1
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0


@contextmanager
def silent(logger: logging.Logger) -> Iterator[None]:
    """Within, nothing of this logger and of those below it is printed."""
    before, nowhere = logger.propagate, logging.NullHandler()
    logger.propagate = False
    logger.addHandler(nowhere)
    try:
        yield
    finally:
        logger.removeHandler(nowhere)
        logger.propagate = before
