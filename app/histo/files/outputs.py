"""Whether a file may be written: never over an input, another output, a pipe, or what is not histo's."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from histo.errors import HistoError

START = 1 << 16
"""Bytes of an existing file that are read to recognise it."""


@dataclass(frozen=True)
class Output:
    """A file that a command will write."""

    path: Path | None
    setting: str
    """the command's option for it"""
    known: Callable[[str], bool]
    """whether a file that begins with this text is one that histo wrote"""


def starts_with(*columns: str) -> Callable[[str], bool]:
    """Recognise a table by its first columns."""
    start = ",".join(columns)
    return lambda text: text.startswith((f"{start},", f"{start}\n"))


def never(_: str) -> bool:
    """For a file that looks like one of the user's own: it is not written over unasked."""
    return False


def check_outputs(
    outputs: Iterable[Output],
    inputs: Iterable[Path | None] = (),
    force: bool = False,
    folders: Mapping[Path, Sequence[str]] = MappingProxyType({}),
    made: Iterable[Path] = (),
) -> None:
    """Refuse, before the work begins, what must not be written over. Raises HistoError.

    Files are compared by device and inode, so that links and other spellings of a path are the same
    file. `force` allows to write over an existing file that histo did not write; nothing allows to
    write over an input. `folders` are inputs too, with the endings of the files that are read there:
    none for all of them, as of a bundle. `made` are the folders that the command writes.
    """
    given = [(each, each.path) for each in outputs if each.path is not None]
    read = {key: path for path in inputs if path is not None and (key := _file(path))}
    for number, (output, path) in enumerate(given):
        if not path.parent.is_dir():
            raise HistoError(f"no folder {path.parent} to write {path.name} into (make it first)")
        others = [*(other for _, other in given[:number]), *made]
        if _place(path) in map(_place, others):
            raise HistoError(
                f"{path} is given for two outputs", f"give another {{{output.setting}}}"
            )
        if (key := _file(path)) in read and key is not None:
            raise HistoError(
                f"{path} is an input ({read[key]}), which would be lost",
                f"give another {{{output.setting}}}",
            )
        _check_existing(output, path, force, folders)


def _check_existing(
    output: Output, path: Path, force: bool, folders: Mapping[Path, Sequence[str]]
) -> None:
    check_target(path)
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        start = file.read(START).decode("utf-8", "replace").removeprefix("\ufeff")
    if output.known(start.replace("\r\n", "\n")):
        return
    if (folder := _read_from(path, folders)) is not None:
        raise HistoError(
            f"{path} is an input (of {folder}), which would be lost",
            f"give another {{{output.setting}}}",
        )
    if not force:
        raise HistoError(
            f"{path} exists and is not what histo writes there",
            f"give another {{{output.setting}}}",
            "{force} writes over it",
        )


def _read_from(path: Path, folders: Mapping[Path, Sequence[str]]) -> Path | None:
    """The folder of which this file is read, if any; by its place: a rename spares what a link names."""
    place = Path(os.path.realpath(path.parent), path.name)
    for folder, endings in folders.items():
        inside = place.is_relative_to(os.path.realpath(folder))
        if inside and (not endings or path.suffix.lower() in endings):
            return folder
    return None


def check_target(path: Path) -> None:
    """Refuse a name that is a folder, a pipe, a socket or a device, or a link to one.

    What stands beside devices is refused too: a new file would take the place of `/dev/stdout`.
    """
    place = os.path.realpath(path.parent)
    if place == "/dev" or f"{place}/".startswith(("/proc/", "/sys/")):
        raise HistoError(f"{path} is in a folder of devices, not a file to write")
    try:
        kind = path.stat()
    except OSError:
        return
    if stat.S_ISDIR(kind.st_mode):
        raise HistoError(f"{path} is a folder, not a file to write")
    if not stat.S_ISREG(kind.st_mode):
        raise HistoError(f"{path} is a pipe or a device, not a file to write")


def _file(path: Path) -> tuple[int, int] | None:
    """What tells a file apart; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _place(path: Path) -> object:
    """What tells a file apart, whether it is there or not."""
    return _file(path) or os.path.realpath(path)
