"""The label CSV: read, checked, and joined to the files of the images folder."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import overload

from histo.errors import HistoError
from histo.limits import CLASSES, NAME, is_name
from histo.rows import read_table

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
GROUP_COLUMNS = ("slide", "patient", "group", "wsi", "hospital")
SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a label CSV: `line` is the line in the file where it ends."""

    id: str
    label: str
    line: int
    split: str = ""


def read_rows(
    path: Path, columns: list[str], may_be_empty: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """The wanted columns of a CSV with a header, as (line number, values).

    UTF-8 with or without a byte-order mark, any line ends. Blank lines are skipped.
    Raises HistoError, naming the file and the line, where that cannot be done.
    """
    table = _read_table(path)
    header = [name.strip() for name in next(table, (0, []))[1]]
    if not any(header):
        raise HistoError(f"{path} is empty")
    for column in columns:
        if column not in header:
            raise HistoError(f"{path} has no column {column!r}: it has {', '.join(header[:20])}")
    places, empty = [header.index(column) for column in columns], True
    for line, values in table:
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(header):
            raise HistoError(
                f"{path.name}, line {line}: {len(values)} values where the header has {len(header)}"
            )
        yield line, [values[i].strip() for i in places]
        empty = False
    if empty and not may_be_empty:
        raise HistoError(f"{path} has a header and no rows")


def _read_table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table, and the ways out where there is none."""
    try:
        yield from read_table(path)
    except FileNotFoundError:
        raise HistoError(f"no label CSV {path} (give --labels if it is elsewhere)") from None
    except IsADirectoryError:
        raise HistoError(f"{path} is a folder, not a CSV") from None


def check_id(name: str, where: str) -> None:
    """Refuse an id that is blank, leads out of the images folder, or is no file name."""
    if not name:
        raise HistoError(f"{where}: the id is blank")
    if "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
        raise HistoError(f"{where}: the id {name!r} is not a plain file name")


def read_labels(
    path: Path, id_column: str = "id", label_column: str = "label", split_column: str | None = None
) -> list[Row]:
    """Read a label CSV; every row has a plain id and a label that is not blank.

    Labels stay strings; where all are whole numbers, `1.0` is read as `1`.
    """
    columns = [id_column, label_column, *([split_column] if split_column else [])]
    rows: list[Row] = []
    first: dict[str, str] = {}
    for line, (name, label, *split) in read_rows(path, columns):
        where = f"{path.name}, line {line}"
        check_id(name, where)
        if not label:
            raise HistoError(f"{where}: the label of {name} is blank")
        if split and split[0].lower() not in SPLITS:
            raise HistoError(f"{where}: {split_column} is {split[0]!r}, not train or valid")
        side = SPLITS[split[0].lower()] if split else ""
        first.setdefault(label, where)
        rows.append(Row(name, sys.intern(label), line, side))
    for label, where in first.items():
        if not is_name(label):
            raise HistoError(
                f"{where}: the label {label[:NAME]!r} cannot be a class's name "
                f"(up to {NAME} characters on one line)"
            )
    CLASSES.check(len(first), f"{path}, column {label_column}")
    whole = {label: re.fullmatch(r"([+-]?\d+)(?:\.0*)?", label) for label in first}
    short = {label: match[1] for label, match in whole.items() if match}
    if short.keys() != first.keys() or list(short) == list(short.values()):
        return rows
    return [replace(row, label=short[row.label]) for row in rows]


def read_groups(given: str, id_column: str) -> tuple[str, dict[str, str]]:
    """The group (slide, patient, hospital) of each id, from `CSV[:column]`, and its column's name.

    Without a column: the one called slide, patient, group or wsi; else the only one beside the id.
    Ids are taken with or without suffix.
    """
    table, column = Path(given), ""
    if not table.is_file() and ":" in given:
        place, _, column = given.rpartition(":")
        table = Path(place)
    if not column:
        column = _group_column(table, id_column)
    groups: dict[str, str] = {}
    for line, (name, group) in read_rows(table, [id_column, column]):
        where = f"{table.name}, line {line}"
        check_id(name, where)
        if not group:
            raise HistoError(f"{where}: the {column} of {name} is blank")
        stem = stem_of(name)
        if groups.setdefault(stem, sys.intern(group)) != group:
            raise HistoError(f"{where}: id {name} is of {group}, but before of {groups[stem]}")
    return column, groups


def _group_column(table: Path, id_column: str) -> str:
    """The column of a groups table that names the group, where the user did not."""
    header = [name.strip() for name in next(_read_table(table), (0, []))[1]]
    known = [name for name in GROUP_COLUMNS if name in header]
    others = [name for name in header if name != id_column]
    if known or len(others) == 1:
        return (known or others)[0]
    raise HistoError(
        f"{table.name}: which column is the group? (--groups {table}:COLUMN; "
        f"it has {', '.join(header[:20])})"
    )


def group_of(groups: dict[str, str], name: str, table: str) -> str:
    """The group of an id; HistoError where the table does not name it."""
    found = groups.get(stem_of(name))
    if found is None:
        raise HistoError(f"{table} names no group for the patch {name}")
    return found


def groups_of(given: str, ids: Iterable[str], id_column: str = "id") -> tuple[str, list[str]]:
    """What a group is called, and the group of each id, from `CSV[:column]`, as `read_groups`."""
    column, known = read_groups(given, id_column)
    return column, [group_of(known, name, given) for name in ids]


def stem_of(name: str) -> str:
    """An id without the suffix of an image file."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in SUFFIXES else name


def make_vocab(labels: list[str]) -> list[str]:
    """The classes, numbers by value and names by alphabet."""
    names = sorted(set(labels))
    try:
        values = {name: float(name) for name in names}
    except ValueError:
        return names
    return sorted(names, key=values.__getitem__) if all(map(isfinite, values.values())) else names


def without_repeats(rows: list[Row], path: Path) -> tuple[list[Row], int]:
    """The rows with each id once, and how many repeats went; labels that disagree are an error."""
    first: dict[str, Row] = {}
    for row in rows:
        seen = first.setdefault(row.id, row)
        if (seen.label, seen.split) != (row.label, row.split):
            raise HistoError(
                f"{path.name}, line {row.line}: id {row.id} is {row.label}, but line {seen.line} "
                f"says {seen.label} (histo check lists them all)"
            )
    return list(first.values()), len(rows) - len(first)


class Files(Sequence[Path]):
    """Files of one folder, held by name: for a million patches as many paths take a gigabyte."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, at: int) -> Path: ...
    @overload
    def __getitem__(self, at: slice) -> Files: ...
    def __getitem__(self, at: int | slice) -> Path | Files:
        if isinstance(at, slice):
            return Files(self.folder, self.names[at])
        return self.folder / self.names[at]


def list_patches(folder: Path) -> Files:
    """The image files of a folder by name; HistoError where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(SUFFIXES)]
    except (FileNotFoundError, NotADirectoryError):
        raise HistoError(
            f"no images folder {folder} (give --images if the patches are elsewhere)"
        ) from None
    for name in names:
        if not name.isprintable() and any("\udc80" <= c <= "\udcff" for c in name):
            raise HistoError(f"{folder} holds {name!r}, whose name is not UTF-8: rename it")
    return Files(folder, sorted(name for name in names if not name.startswith(".")))


class PatchIndex:
    """The files of an images folder, found by name with or without suffix."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.paths = folder, list_patches(folder)
        names = self.paths.names
        self._names = frozenset(names)
        stems = [name.rpartition(".")[0] for name in names]
        self._by_stem = dict(zip(reversed(stems), reversed(names), strict=True))
        self._twice = {stem for stem, n in Counter(stems).items() if n > 1}

    def find(self, name: str) -> Path | None:
        """The file of an id, or None; an id that could be two files is an error."""
        found = self._find(name)
        return None if found is None else self.folder / found

    def _find(self, name: str) -> str | None:
        if name in self._names:
            return name
        if name in self._twice:
            raise HistoError(f"id {name} fits several files of {self.folder} (give its suffix)")
        return self._by_stem.get(name)

    def locate(self, rows: Sequence[Row], path: Path) -> Files:
        """The file of each row; the first that is missing is an error."""
        found = []
        for row in rows:
            name = self._find(row.id)
            if name is None:
                raise HistoError(
                    f"{path.name}, line {row.line}: no patch {row.id} in {self.folder} "
                    "(give --images if the patches are elsewhere)"
                )
            found.append(name)
        return Files(self.folder, found)
