"""What is being written bears a name of its own, `.NAME.xxxxxxxx.histo`, until it is whole.

The process that writes it holds a lock on it (flock), which ends with the process: what nobody has
locked was left by a dead process, and the next one that writes into the same folder removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

ENDING = ".histo"
NAME = re.compile(r"\..{1,40}\.[0-9a-f]{8}\.histo", re.DOTALL)
"""All of such a name: `.histo` itself is a store, and other hidden files of that ending are the user's."""
DAY = 24 * 3600.0
"""Where there is no flock, a folder of that age is taken for left over."""

_swept: set[tuple[int, str]] = set()
"""The folders that this process, by its id, has looked through."""


def name_aside(path: Path) -> Path:
    """A new name beside `path`, short enough for any file system."""
    return path.with_name(f".{path.name[:40]}.{os.urandom(4).hex()}{ENDING}")


def is_aside(name: str) -> bool:
    """Whether a name is one of `name_aside`."""
    return NAME.fullmatch(name) is not None


def is_occupied(folder: Path) -> bool:
    """Whether a folder holds anything but what is being written, or was left by a dead process."""
    return any(not is_aside(path.name) for path in folder.iterdir())


def file_aside(path: Path) -> tuple[int, Path]:
    """Open a new file beside `path`, and lock it; its handle and its name."""
    sweep(path.parent)
    while True:
        aside = name_aside(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        handle = os.open(aside, flags, 0o666)  # less the umask: a run is there to be shared
        _lock(handle)
        if _is_there(handle, aside):
            return handle, aside
        os.close(handle)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """A new folder to write in: in `path` if that is a folder, else beside it.

    What is left of it at the end is removed.
    """
    parent = path if path.is_dir() else path.parent
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    aside, handle = name_aside(parent / path.name), -1
    try:
        aside.mkdir()
        if sys.platform != "win32":
            handle = os.open(aside, os.O_RDONLY)
        if handle >= 0:
            _lock(handle)
            if not _is_there(handle, aside):
                aside.mkdir(
                    exist_ok=True
                )  # swept just now, by a process that took it for left over
        yield aside
    except OSError as error:
        if error.filename is not None:  # as the user knows it
            error.filename = os.fsdecode(error.filename).replace(str(aside), str(path))
        raise
    finally:
        if handle >= 0:
            os.close(handle)
        shutil.rmtree(aside, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder: at once under its name, then what it holds.

    A mount, and a folder from the image of a container, cannot be renamed: what they hold is removed.
    """
    aside = name_aside(folder)
    try:
        folder.rename(aside)
    except OSError:
        aside = folder
    shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what dead processes left in a folder; each process looks through it once."""
    key = (os.getpid(), str(folder.absolute()))
    if key in _swept:
        return
    _swept.add(key)
    with suppress(OSError):
        for path in folder.iterdir():
            if is_aside(path.name):
                _remove_dead(path)


def _remove_dead(path: Path) -> None:
    """Remove a file or a folder aside, unless a process has locked it."""
    with suppress(OSError):
        if sys.platform == "win32":
            if not path.is_dir():
                path.unlink()  # fails while it is open
            elif time.time() - path.stat().st_mtime > DAY:
                shutil.rmtree(path, ignore_errors=True)
            return
        if path.is_symlink():
            return
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError if it is being written
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(handle)


def _lock(handle: int) -> None:
    """Lock what is open, until the handle is closed or the process ends."""
    if sys.platform != "win32":
        with suppress(OSError):  # a file system without locks: what is left there stays
            fcntl.flock(handle, fcntl.LOCK_SH)


def _is_there(handle: int, path: Path) -> bool:
    """Whether what is open still bears this name."""
    if sys.platform == "win32":
        return True
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
