"""Ctrl-C, when it must end a process that does not listen."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

AGAIN = 1.0
"""Signals within so many seconds count as one: a launcher forwards what the terminal sent to all."""
GRACE = 3.0
"""Seconds in which a process may end by itself after the second."""
STUCK = "stuck"
"""The name of a thread that is in C code without an end."""
asked = threading.Event()
"""Set by the first Ctrl-C."""


def end_at_second_interrupt() -> None:
    """From here on the second Ctrl-C ends this process, whatever it is doing.

    Python raises KeyboardInterrupt only between two of its own instructions, and waits for its threads
    before it ends. Code in C may have no end, such as a model of a stranger.
    """
    inbox, outbox = socket.socketpair()
    outbox.setblocking(False)
    signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(inbox, outbox), daemon=True).start()


def _watch(inbox: socket.socket, _outbox: socket.socket) -> None:
    """Read the numbers of signals as they come; `_outbox` stays open as long as this runs."""
    first = 0.0
    while data := inbox.recv(64):
        if signal.SIGINT not in data:
            continue
        if first and time.monotonic() - first > AGAIN:
            time.sleep(GRACE)
            os._exit(128 + signal.SIGINT)
        first = first or time.monotonic()
        asked.set()


def leave(status: int) -> None:
    """End this process at once if a thread is stuck: the end of Python would take it apart."""
    if any(thread.name == STUCK for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
