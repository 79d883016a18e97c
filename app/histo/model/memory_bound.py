"""A bound on the memory of this process, held by the kernel while a stranger's model loads or runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATM = Path("/proc/self/statm")
"""Its sixth number counts the pages that RLIMIT_DATA bounds (proc(5))."""


_lock = threading.Lock()
_inside: list[int] = []
"""The bounds of the threads that are within `memory_bounded`: the highest is in force."""
_before: list[tuple[int, int]] = []
"""The limits to come back to, while any thread is within."""


def data_taken() -> int:
    """How many bytes this process has of what RLIMIT_DATA bounds; 0 where that is not known."""
    if not STATM.exists():
        return 0
    import resource

    return int(STATM.read_bytes().split()[5]) * resource.getpagesize()


@contextmanager
def memory_bounded(ceiling: int) -> Iterator[None]:
    """Let this process have so many bytes: above that an allocation fails. On Linux alone.

    With several threads within, those of other calls among them, the highest of their bounds holds.
    """
    if not STATM.exists():
        yield
        return
    _enter(ceiling)
    try:
        yield
    finally:
        _exit(ceiling)


def _enter(ceiling: int) -> None:
    import resource

    with _lock:
        if not _inside:
            _before.append(resource.getrlimit(resource.RLIMIT_DATA))
        _inside.append(ceiling)
        _hold()


def _exit(ceiling: int) -> None:
    import resource

    with _lock:
        _inside.remove(ceiling)
        if _inside:
            _hold()
        else:
            resource.setrlimit(resource.RLIMIT_DATA, _before.pop())


def _hold() -> None:
    """Put the highest bound in force, if the limits from before allow it."""
    import resource

    hard = _before[0][1]
    limits = [max(_inside), *(limit for limit in _before[0] if limit >= 0)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
