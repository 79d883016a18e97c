"""Ctrl-C once asks to stop at the next good moment; twice stops at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = 1.0
"""Seconds after which a signal counts anew: a launcher passes on what its terminal has sent to all."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal sends, and what a scheduler sends before it takes a machine away."""


@contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether the user, or the system, has asked to stop.

    A second signal raises KeyboardInterrupt wherever the program is.
    """
    asked, first = threading.Event(), 0.0

    def ask(*_: Any) -> None:
        nonlocal first
        if not asked.is_set():
            first = time.monotonic()
            asked.set()
        elif time.monotonic() - first > AGAIN:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are not ours there
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
