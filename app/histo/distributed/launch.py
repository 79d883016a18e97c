"""One command line in N processes of this machine, by PyTorch's own launcher."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from histo.errors import HistoError

STOPPING = 600
"""Seconds in which processes that were asked to stop may end by themselves, a checkpoint written."""


def launch(processes: int, device: str) -> int:
    """Run this very command in each process of this machine; the exit status of them all.

    What torchrun does, without the page that it prints where a process ends with an error: that
    process has said its own line.
    """
    from torch import cuda
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    there = cuda.device_count()
    if there and device != "cpu" and processes > there:
        raise HistoError(
            f"{processes} devices were asked for: {there} GPUs are here", "give a smaller {devices}"
        )
    logging.disable(logging.CRITICAL)
    patience: dict[str, Any] = {}
    if hasattr(LaunchConfig, "shutdown_timeout"):  # not in older versions of PyTorch
        patience["shutdown_timeout"] = STOPPING
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        **patience,
    )
    try:
        elastic_launch(settings, sys.executable)("-m", "histo", *sys.argv[1:])
    except ChildFailedError as error:
        statuses = [failure.exitcode for failure in error.failures.values()]
        return max(statuses, default=1) if min(statuses, default=1) > 0 else 1
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0
