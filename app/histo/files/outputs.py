"""Whether a file may be written: never over an input, another output, a pipe, or what is not histo's."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from histo.errors import HistoError
from histo.files.aside import folder_aside

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
        if any(_is_same(path, other) for other in others):
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
    """The folder of which this file is read, if any; by its place: a rename spares what a link names.

    Folders too are compared by device and inode: one may be mounted twice, or ignore the case of names.
    """
    place = _file(path.parent)
    for folder, endings in folders.items():
        if (not endings or path.suffix.lower() in endings) and any(
            _file(Path(each)) == place for each, _, _ in os.walk(folder)
        ):
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
    if _is_mounted(path):
        raise HistoError(
            f"{path} is mounted as a file of its own, and such a file cannot be replaced",
            "mount its folder",
        )


def _is_mounted(path: Path) -> bool:
    """Whether a file is a mount, as `docker run --volume p.csv:/p.csv` makes it; its device does not tell."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    place = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118
    for char in "\\ \t\n":
        place = place.replace(char, f"\\{ord(char):03o}")
    return any(line.split(" ")[4] == place for line in mounts)


def _file(path: Path) -> tuple[int, int] | None:
    """What tells a file apart; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths are one file, there or not: of another spelling, say, where case is ignored."""
    if (key := _file(path)) is not None:
        return key == _file(other)
    if _file(path.parent) != _file(other.parent) or _file(path.parent) is None:
        return False
    return bool(path.name == other.name or one_name(path.parent, [path.name, other.name]))


def one_name(folder: Path, names: Iterable[str]) -> tuple[str, str] | None:
    """Two of these names that are one in a folder, as on a disk that ignores case; else None.

    Only names that some file system takes for one are tried, in a folder that is removed again:
    within this one, or within the nearest above it that is there.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    for first, *others in alike.values():
        for other in others:
            with folder_aside(there / "names") as aside:
                (aside / first).mkdir()
                if (aside / other).exists():
                    return first, other
    return None


def check_apart(folder: Path, names: Iterable[str]) -> None:
    """HistoError where two of these names would be one in a folder, and the one's results lost."""
    if found := one_name(folder, names):
        raise HistoError(
            f"{found[0]} and {found[1]} are one name in {folder}, whose disk ignores case",
            "rename one",
            "give another {out}",
        )
