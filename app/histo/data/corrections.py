"""Corrected labels: the CSV that names them, and the rows of a label CSV with them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from histo.config import DataConfig
from histo.data.labels import Row, _read_table, read_rows
from histo.errors import HistoError
from histo.screen import Screen, counted

CORRECTED = "corrected"
"""The column of a review's suspects.csv that the user fills."""


@dataclass(frozen=True)
class Correction:
    """The label that a patch shall have; `before` is the one that the file says it had, or blank."""

    label: str
    before: str
    where: str
    """the file and the line"""


def correct_labels(
    rows: list[Row], config: DataConfig, screen: Screen
) -> tuple[list[Row], Mapping[str, int]]:
    """The rows with the labels that the corrections give, and how many changed by `from -> to`.

    HistoError names the line whose id is no patch's or whose label is no class's.
    """
    if config.corrections is None:
        return rows, {}
    found = read_corrections(config.corrections, config)
    check_corrections(found, rows, config.labels_csv)
    changed: Counter[tuple[str, str]] = Counter()
    fixed = []
    for row in rows:
        label = found[row.id].label if row.id in found else row.label
        changed[row.label, label] += label != row.label
        fixed.append(replace(row, label=label))
    pairs = {f"{a} -> {b}": n for (a, b), n in sorted(changed.items()) if n}
    say_changes(pairs, config.corrections, screen)
    return fixed, pairs


def say_changes(pairs: Mapping[str, int], path: Path, screen: Screen) -> None:
    """How many labels were changed, from what to what."""
    total = counted(sum(pairs.values()), "label")
    each = ", ".join(f"{n:,} {pair}" for pair, n in pairs.items())
    screen.say(f"{total} changed, as {path.name} says" + (f": {each}" if each else ""))


def read_corrections(path: Path, config: DataConfig) -> dict[str, Correction]:
    """The correction of each id, from `id,label`, or from suspects.csv with `corrected` filled."""
    if not path.is_file():
        raise HistoError(f"no corrections CSV {path}")
    header = [name.strip() for name in next(_read_table(path), (0, []))[1]]
    name = config.id_column if config.id_column in header else "id"
    label = config.label_column if config.label_column in header else "label"
    filled = CORRECTED in header
    columns = [name, label, CORRECTED] if filled else [name, label]
    found: dict[str, Correction] = {}
    for line, (patch, *labels) in read_rows(path, columns, may_be_empty=True):
        each = Correction(labels[-1], labels[0] if filled else "", f"{path.name}, line {line}")
        if filled and not each.label:
            continue  # looked at and left, or not looked at
        if not each.label:
            raise HistoError(f"{each.where}: the label of {patch} is blank")
        if found.setdefault(patch, each).label != each.label:
            raise HistoError(
                f"{each.where}: {patch} is {each.label}, but {found[patch].label} in an earlier line"
            )
    if filled and not found:
        raise HistoError(f"{path}: no row has its right label in the column {CORRECTED} yet")
    return found


def check_corrections(found: dict[str, Correction], rows: list[Row], table: Path) -> None:
    """Refuse ids without a patch, labels without a class, and a file about other labels.

    A label is written as the label CSV has it: a spreadsheet makes `1.0` of `1`.
    """
    known: dict[str, set[str]] = {}
    for row in rows:
        known.setdefault(row.id, set()).add(row.label)
    classes = {row.label for row in rows}
    for name, each in found.items():
        if name not in known:
            raise HistoError(f"{each.where}: no patch {name} in {table.name}")
        label, before = (_as_class(text, classes) for text in (each.label, each.before))
        if label not in classes:
            some = ", ".join(sorted(classes)[:8])
            raise HistoError(
                f"{each.where}: the label {label} is no class of {table.name} ({some})"
            )
        if before and not known[name] & {before, label}:
            raise HistoError(
                f"{each.where}: {name} was {before} there, but is {min(known[name])} in "
                f"{table.name}: these corrections are of other labels"
            )
        found[name] = replace(each, label=label)


def _as_class(text: str, classes: set[str]) -> str:
    whole = re.fullmatch(r"([+-]?\d+)\.0*", text)
    return whole[1] if whole and text not in classes and whole[1] in classes else text
