"""A file that one process holds alone; a dead one holds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histo.errors import HistoError


@contextmanager
def held(path: Path, otherwise: str) -> Iterator[None]:
    """Hold the lock file `path`; HistoError that says `otherwise` where another process does."""
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise HistoError(otherwise) from None
    try:
        yield
    finally:
        lock.release()
