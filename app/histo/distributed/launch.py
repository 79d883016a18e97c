"""Start this command in N processes by torch's launcher; torchrun itself prints a page per error.

Each process prints its own error line, so the launcher's log and traceback are suppressed.
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
"""Seconds that processes have to write a checkpoint and exit, after a request to stop."""


def launch(processes: int, device: str) -> int:
    """Run this same command in N processes on this machine; returns their common exit status."""
    from torch import cuda
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    present = cuda.device_count()
    if present and device != "cpu" and processes > present:
        raise HistoError(
            f"{processes} devices were requested: this machine has {present}",
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
            # -P: no module of the working folder
            elastic_launch(config, sys.executable)("-P", "-m", "histo", *sys.argv[1:])
    except ChildFailedError as error:
        statuses = [failure.exitcode for failure in error.failures.values()]
        return max(statuses, default=1) if min(statuses, default=1) > 0 else 1
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0


@contextmanager
def silent(logger: logging.Logger) -> Iterator[None]:
    """Suppress this logger and its children."""
    before, nowhere = logger.propagate, logging.NullHandler()
    logger.propagate = False
    logger.addHandler(nowhere)
    try:
        yield
    finally:
        logger.removeHandler(nowhere)
        logger.propagate = before
