"""Lock files: one process holds a lock at a time; the lock of a dead process is free."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from histo.errors import HistoError
from histo.files.limits import check_regular


def check_lock(path: Path) -> None:
    """Refuse a lock file that is a link, a folder, a pipe or a device: it may be a stranger's."""
    try:
        kind = path.lstat()
    except OSError:  # none yet, or its folder cannot be read: taking the lock says so
        return
    if stat.S_ISLNK(kind.st_mode):
        raise HistoError(f"{path} is a link, not a lock file", "remove it")
    check_regular(kind, path)


@contextmanager
def locked(path: Path, otherwise: str) -> Iterator[None]:
    """Hold the lock file `path`; HistoError with the text `otherwise` if another process holds it."""
    from filelock import FileLock, Timeout

    check_lock(path)
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
def locked_when_free(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock file `path` once no other process does; call `waiting` if that takes 2 seconds."""
    from filelock import FileLock, Timeout

    check_lock(path)
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=2)
        except Timeout:
            waiting()
            lock.acquire()
    except NotImplementedError:
        raise HistoError(
            f"the file system of {path.parent} has no file locks",
            "give another {store} folder",
            "{no_store} keeps the patches in memory",
        ) from None
    try:
        yield
    finally:
        lock.release()
