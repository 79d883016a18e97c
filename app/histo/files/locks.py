"""Lock files: one process holds a lock at a time; the lock of a dead process is free."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def _acquire(lock: Any, path: Path, seconds: float) -> None:
    """Acquire a lock whose file may have been removed by the process that held it before.

    Of three processes, one could hold the removed file, and another a new one of that name.
    """
    while True:
        lock.acquire(timeout=seconds)
        if _is_there(lock, path):
            return
        lock.release()


def _is_there(lock: Any, path: Path) -> bool:
    """Whether the file that is locked still bears its name."""
    handle = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
    if handle is None or sys.platform == "win32":  # where it cannot be removed while it is open
        return True
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


@contextmanager
def locked(path: Path, otherwise: str) -> Iterator[None]:
    """Hold the lock file `path`; HistoError with the text `otherwise` if another process holds it."""
    from filelock import FileLock, Timeout

    check_lock(path)
    lock = FileLock(path, timeout=0)
    try:
        _acquire(lock, path, 0)
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
            _acquire(lock, path, 2)
        except Timeout:
            waiting()
            _acquire(lock, path, -1)
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
