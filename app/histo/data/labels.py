"""The label CSV: read, checked, and each patch in it once."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from histo.data.columns import Column, Say, id_column, label_column, read_rows
from histo.data.ids import check_id
from histo.errors import HistoError
from histo.files.limits import CLASSES, NAME, is_name

SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid"}


@dataclass(frozen=True, slots=True)
class Row:
    """A patch and its label; `line` is where its row ends in the label CSV, 0 without a CSV."""

    id: str
    label: str
    line: int
    split: str = ""
    group: str = ""


def read_labels(
    path: Path,
    ids: str = "id",
    labels: str = "label",
    split_column: str | None = None,
    say: Say | None = None,
) -> list[Row]:
    """Read a label CSV; each row has an id below the images folder and a label that is not blank.

    Labels stay strings, in Unicode's NFC; where all are whole numbers, `1.0` is read as `1`.
    """
    split_columns = [Column(split_column)] if split_column else []
    columns = [id_column(ids), label_column(labels), *split_columns]
    rows: list[Row] = []
    first: dict[str, str] = {}
    table = path.name  # once: 220,000 times it takes a fifth of a second
    for line, (name, label, *split) in read_rows(path, columns, say=say):
        where = f"{table}, line {line}"
        patch = check_id(name, where)
        if not label:
            raise HistoError(f"{where}: the label of {name} is blank")
        if split and split[0].lower() not in SPLITS:
            raise HistoError(f"{where}: {split_column} is {split[0]!r}, not train or valid")
        side = SPLITS[split[0].lower()] if split else ""
        one = label if label.isascii() else unicodedata.normalize("NFC", label)
        first.setdefault(one, where)
        rows.append(Row(patch, sys.intern(one), line, side))
    check_class_names(first, f"{path}, column {labels}")
    whole = {label: re.fullmatch(r"([+-]?\d+)(?:\.0*)?", label) for label in first}
    short = {label: match[1] for label, match in whole.items() if match}
    if short.keys() != first.keys() or list(short) == list(short.values()):
        return rows
    return [replace(row, label=short[row.label]) for row in rows]


def check_class_names(first: dict[str, str], whole: str) -> None:
    """Refuse labels that cannot be names of classes, by where each is `first` found, and too many."""
    for label, where in first.items():
        if not is_name(label):
            raise HistoError(
                f"{where}: the label {label[:NAME]!r} cannot be a class's name "
                f"(up to {NAME} characters on one line, none that changes the direction of text)"
            )
    CLASSES.check(len(first), whole)


def make_vocab(labels: Iterable[str]) -> list[str]:
    """The classes, numbers by value and names by alphabet."""
    names = sorted(set(labels))
    try:
        values = {name: float(name) for name in names}
    except ValueError:
        return names
    return sorted(names, key=values.__getitem__) if all(map(isfinite, values.values())) else names


def similar_classes(vocab: Iterable[str]) -> list[list[str]]:
    """Sets of classes, or groups, that look alike: most often one, written in several ways."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in vocab:
        found[_seen(name)].append(name)
    return [names for names in found.values() if len(names) > 1]


def _seen(name: str) -> str:
    """A name without case, blanks, invisible characters, leading zeros and `.0`; full width is half."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    shown = "".join(c for c in plain if not c.isspace() and unicodedata.category(c) != "Cf")
    whole = shown.rstrip("0").removesuffix(".") if "." in shown else shown  # 1.0, as Excel has it
    return whole.lstrip("0") or "0" if whole.isdecimal() else shown


NO_VALUE = ("nan", "na", "n/a", "<na>", "null", "none", "?", "#n/a")


def missing_classes(vocab: Iterable[str]) -> list[str]:
    """Classes whose name is what programs write where a value is missing."""
    return [name for name in vocab if name.casefold() in NO_VALUE]


def first_of_each(rows: Sequence[Row], files: Sequence[str], path: Path) -> list[int]:
    """The place of the first row of each file; rows of one file that disagree are an error."""
    first: dict[str, int] = {}
    for place, (row, file) in enumerate(zip(rows, files, strict=True)):
        before = rows[first.setdefault(file, place)]
        if (before.label, before.split) != (row.label, row.split):
            same = "" if before.id == row.id else " of the same file"
            raise HistoError(
                f"{path.name}, line {row.line}: id {row.id} is {row.label}, but line {before.line} "
                f"says {before.label}{same} (histo check lists them all)"
            )
    return list(first.values())
