"""Files written whole or not at all: to a temporary name beside the final one, flushed, renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from histo.errors import HistoError
from histo.files.limits import JSON_BYTES, Limit, read_bytes


@contextmanager
def written(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file beside `path`; on a clean exit flush it to disk and rename it to `path`."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flush a folder, so that a rename survives a loss of power, where the system allows it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_new(out: Path) -> None:
    """A run folder must not be there yet."""
    if out.exists():
        raise HistoError(f"{out} exists, and a run is never overwritten", "give another {out}")


def _umask() -> int:
    """The process's umask: mkstemp makes private files, and a run is there to be shared."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
        return json.loads(read_bytes(path, limit).decode())
    except FileNotFoundError:
        raise HistoError(f"no file {path}") from None
    except (OSError, ValueError, RecursionError):
        raise HistoError(f"{path} is not readable JSON") from None
