"""A file that one process holds alone; a dead one holds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histo import ranks
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


@contextmanager
def awaited(path: Path, word: str) -> Iterator[None]:
    """Hold the lock file `path` once no other process does; say `word` where that takes a while.

    It is said even where this process's screen is silent: once a machine.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=2)
        except Timeout:
            if ranks.local_rank() == 0:
                print(word, flush=True)
            lock.acquire()
    except NotImplementedError:
        raise HistoError(
            f"the file system of {path.parent} cannot lock (--store DIR elsewhere, or --no-store)"
        ) from None
    try:
        yield
    finally:
        lock.release()
