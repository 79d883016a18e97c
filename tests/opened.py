"""Which files Python opens, as the interpreter itself reports it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_watched: list[tuple[str, set[str]]] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(args[0], str | os.PathLike):
        path = os.fspath(args[0])
        for folder, names in _watched:
            if isinstance(path, str) and path.startswith(folder):
                names.add(Path(path).name)


sys.addaudithook(_hook)


@contextmanager
def files_opened(folder: Path) -> Iterator[set[str]]:
    """The names of the files below `folder` that are opened within the block."""
    watch = (f"{folder}{os.sep}", set[str]())
    _watched.append(watch)
    try:
        yield watch[1]
    finally:
        _watched.remove(watch)
