"""The first Ctrl-C stops training at the next batch, with a checkpoint; the second stops at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = 1.0
"""Signals within so many seconds count as one: a launcher forwards a Ctrl-C that the terminal has
already sent to every process."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Sent by a terminal, and by a scheduler before it reclaims a machine."""


@contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether the user or the system has asked to stop.

    A second signal raises KeyboardInterrupt at once.
    """
    asked, first = threading.Event(), 0.0

    def ask(*_: Any) -> None:
        nonlocal first
        if not asked.is_set():
            first = time.monotonic()
            asked.set()
        elif time.monotonic() - first > AGAIN:
            raise KeyboardInterrupt

    if (
        threading.current_thread() is not threading.main_thread()
    ):  # only the main thread may handle signals
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
