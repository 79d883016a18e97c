"""Files and folders written whole or not at all: under another name, flushed, renamed once."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from histo.errors import HistoError
from histo.files.aside import file_aside, folder_aside
from histo.files.limits import JSON_BYTES, Limit, read_bytes


@contextmanager
def written(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file beside `path`; on a clean exit flush it to disk and rename it to `path`.

    A link is replaced, not followed. An OSError, as of a full disk, names `path`.
    """
    aside = None
    try:
        handle, aside = file_aside(path)
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "posix":  # renamed while locked: nobody takes it for left over
                aside.replace(path)
        if os.name != "posix":
            aside.replace(path)
    except BaseException as error:
        if aside is not None:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and (
            error.filename is None or aside is None or Path(error.filename).name == aside.name
        ):
            error.filename, error.filename2 = str(path), None
        raise
    flush_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block name this file, which is being written: the system names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write one of many files, which count only where the caller says so. An OSError names `path`."""
    with naming(path):
        path.write_bytes(data)


@contextmanager
def built(
    folder: Path, *, last: str, first: str = "", earlier: Collection[str] = ()
) -> Iterator[Path]:
    """A folder to write in, which on a clean exit becomes `folder`, by one rename.

    Where `folder` is there already, perhaps with files of somebody else's, each file is renamed
    into it instead: `last`, by which the folder is known to be whole, is removed at first and comes
    last; `first` is that by which it is known to be histo's. Files named in `earlier` that are not
    among the new ones are removed.
    """
    folder = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
    with folder_aside(folder) as aside:
        yield aside
        flush_files(aside)
        if not folder.exists():
            flush_folder(aside)
            aside.rename(folder)
        else:
            _move_into(aside, folder, first, last, earlier)
    flush_folder(folder.parent)


def _move_into(aside: Path, folder: Path, first: str, last: str, earlier: Collection[str]) -> None:
    """Rename each file of `aside` into `folder`."""
    new = [path.relative_to(aside) for path in sorted(aside.rglob("*")) if path.is_file()]
    new.sort(key=lambda name: (name == Path(last), name != Path(first)))
    (folder / last).unlink(missing_ok=True)
    flush_folder(folder)
    for old in earlier:
        if Path(old) not in new and old != first:
            (folder / old).unlink(missing_ok=True)
            if Path(old).parent != Path():
                with suppress(OSError):  # the user's own files stay
                    (folder / old).parent.rmdir()
    for name in new:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (aside / name).replace(folder / name)
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Flush a folder, so that a rename survives a loss of power, where the system allows it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def flush_files(folder: Path) -> None:
    """Flush every file below a folder: what is not on the disk is lost with the power, or with the disk."""
    if os.name != "posix":  # a file that is open for reading cannot be flushed
        return
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            except OSError as error:
                error.filename = str(path)
                raise
            finally:
                os.close(handle)


def flush_disks() -> None:
    """Flush all disks at once: file by file, a quarter of a million flushes take an hour."""
    if hasattr(os, "sync"):
        os.sync()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, limit: Limit = JSON_BYTES) -> Any:
    """Read a JSON file; HistoError names a missing, damaged or overlong one."""
    try:
        return parse_json(read_bytes(path, limit).decode())
    except FileNotFoundError:
        raise HistoError(f"no file {path}") from None
    except (OSError, ValueError, RecursionError):
        raise HistoError(f"{path} is not readable JSON") from None


def parse_json(text: str) -> Any:
    """JSON whose numbers are whole ones of 64 bits or finite; of others NaN, which is no number anywhere.

    ValueError where a text has half a pair of surrogates, or a NUL: it could not be written or shown,
    or be a path.
    """
    found = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(found, ensure_ascii=False).encode()
    if "\\u0000" in text and _has_nul(found):
        raise ValueError("a text has a NUL")
    return found


def _has_nul(found: Any) -> bool:
    """Whether any text in JSON has a NUL."""
    pending = [found]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += [*value, *value.values()]
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str) and "\0" in value:
            return True
    return False


def _whole(text: str) -> float:
    value = int(text) if len(text) <= 20 else math.nan
    return value if -(2**63) <= value < 2**63 else math.nan


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else math.nan
