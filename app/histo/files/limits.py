"""Bounds on what is read from files of unknown origin, and the variables that raise them."""

from __future__ import annotations

import os
import stat
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from histo.errors import HistoError

MB = 1 << 20


@dataclass(frozen=True)
class Limit:
    """A bound on what is read; the environment variable of its name raises it."""

    name: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """The bound in force; HistoError where the variable holds no positive whole number."""
        given = os.environ.get(self.name, "")
        if not given:
            return self.default
        if not given.isascii() or not given.isdecimal() or not 0 < len(given) < 16:
            raise HistoError(f"{self.name}={given!r} is not a positive whole number")
        return int(given)

    def check(self, n: int, what: str) -> None:
        """Refuse `n` where it is over the bound; `what` names who has so many."""
        if n > self.value:
            raise HistoError(
                f"{what}: more than {self.value:,} {self.unit} (the variable {self.name} raises that)"
            )


IMAGE_PIXELS = Limit("OPENCV_IO_MAX_IMAGE_PIXELS", 50_000_000, "pixels")
"""The name is OpenCV's own, which holds the same bound."""
IMAGE_BYTES = Limit("HISTO_MAX_IMAGE_BYTES", 8 * IMAGE_PIXELS.default + MB, "bytes")
"""The largest allowed image, uncompressed, of 16 bits and four channels."""
TABLE_BYTES = Limit("HISTO_MAX_TABLE_BYTES", 256 * MB, "bytes")
ROWS = Limit("HISTO_MAX_ROWS", 2_000_000, "rows")
CLASSES = Limit("HISTO_MAX_CLASSES", 1000, "classes")
JSON_BYTES = Limit("HISTO_MAX_JSON_BYTES", 16 * MB, "bytes")
CARD_BYTES = Limit("HISTO_MAX_CARD_BYTES", 4 * MB, "bytes")
MODEL_BYTES = Limit("HISTO_MAX_MODEL_BYTES", 8192 * MB, "bytes")
CHUNK_BYTES = Limit("HISTO_MAX_CHUNK_BYTES", 256 * MB, "bytes")
"""What HDF5 unpacks at a time."""
GRADCAM_BYTES = Limit("HISTO_MAX_GRADCAM_BYTES", 256 * MB, "bytes")
RUN_BYTES = Limit("HISTO_MAX_RUN_BYTES", 4096 * MB, "bytes")
"""What a bundle's ONNX model takes beside its weights while it runs."""
RUN_SECONDS = Limit("HISTO_MAX_RUN_SECONDS", 600, "seconds")
"""How long it takes to load, or for one batch."""
FOLDERS = 2
"""Levels of folders in a run: RUN/fold-1/checkpoint."""
NAME = 200
"""Characters of a class's name. No variable raises it: names are columns, and lines of a report."""
NO_LINE = ("Cc", "Cs", "Zl", "Zp")
"""Categories of characters that end a line, or that no file can hold."""
DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Characters after which text is shown in another direction (Unicode, annex 9)."""


def read_bytes(path: Path, limit: Limit, within: Path | None = None) -> bytes:
    """A whole file, if it is a regular one within the limit: neither a pipe nor a device hangs.

    With `within`, a folder without links in its path, the file must lie in it when it is open: before
    that somebody may put a link in its place. Asked of Linux alone.
    FileNotFoundError and IsADirectoryError pass: callers name what was missing.
    """
    try:
        return _read(path, limit, within)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except OSError as error:
        raise HistoError(f"{path} cannot be read: {error.strerror}") from None


def _read(path: Path, limit: Limit, within: Path | None) -> bytes:
    """What `read_bytes` gives."""
    with open(path, "rb", opener=open_at_once) as file:
        kind = os.fstat(file.fileno())
        check_regular(kind, path)
        limit.check(kind.st_size, str(path))
        opened = Path(f"/proc/self/fd/{file.fileno()}")
        if within and opened.is_symlink() and not opened.readlink().is_relative_to(within):
            raise HistoError(f"{path} is a link to a file outside the folder")
        data = file.read(kind.st_size + 1)  # buffered: one call to the system gives 2 GB at most
    if len(data) > kind.st_size:
        raise HistoError(f"{path} grows while it is read")
    return data


def open_at_once(path: str, flags: int) -> int:
    """Open a file without blocking, even on a pipe that nobody writes to."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_regular(kind: os.stat_result, path: Path) -> None:
    """Refuse a folder, and a pipe, a socket or a device, which have no end."""
    if stat.S_ISDIR(kind.st_mode):
        raise HistoError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(kind.st_mode):
        raise HistoError(f"{path} is a pipe or a device, not a file")


def path_inside(folder: Path, name: str, what: str) -> Path:
    """The path of a file in a folder; HistoError if it is a link to outside of it."""
    path = folder / name
    try:
        found = path.resolve()
        # what is a link still leads in a loop: before Python 3.13 that is a RuntimeError
        inside = found.is_relative_to(folder.resolve()) and not found.is_symlink()
    except (OSError, RuntimeError):
        inside = False
    if not inside:
        raise HistoError(f"{path} is a link to a file outside {what}")
    return path


def check_folder(folder: Path, what: str) -> None:
    """Refuse a folder from which a link leads out, or that holds a pipe or a device, three levels deep."""
    pending = [(folder, 0)]
    while pending:
        place, depth = pending.pop()
        with suppress(FileNotFoundError):  # what another process writes, or moves, meanwhile
            for entry in list(os.scandir(place)):
                if entry.is_symlink():
                    path_inside(folder, os.path.relpath(entry.path, folder), what)
                elif entry.is_dir() and depth < FOLDERS:
                    pending.append((Path(entry.path), depth + 1))
                elif not entry.is_dir():
                    with suppress(FileNotFoundError):
                        check_regular(entry.stat(), Path(entry.path))


def is_name(text: object) -> bool:
    """Whether something may be the name of a class: some text that fits in a cell and a line.

    Marks that change the direction of text are refused: what follows a name would read backwards.
    """
    return (
        isinstance(text, str)
        and 0 < len(text) <= NAME
        and not any(unicodedata.category(c) in NO_LINE for c in text)
        and not any(unicodedata.bidirectional(c) in DIRECTIONS for c in text)
    )
