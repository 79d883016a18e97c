"""The label CSV: read, checked, and joined to the files of the images folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from histo.errors import HistoError
from histo.files.limits import CLASSES, NAME, is_name
from histo.files.tables import read_table

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
        raise HistoError(f"no label CSV {path}", "give {labels} if it is elsewhere") from None
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
