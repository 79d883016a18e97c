"""Corrected labels: the CSV that names them, and the rows of a label table with them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histo.config import DataConfig
from histo.data.columns import Column, id_column, label_column, read_header, read_rows
from histo.data.ids import IdLookup, check_id
from histo.data.labels import Row
from histo.errors import HistoError
from histo.screen import Screen, counted

CORRECTED = "corrected"
"""The column of a review's suspects.csv that the user fills."""
DECISION, REVIEWER = "decision", "reviewer"
"""The columns that `histo serve` adds: keep, change or unsure, and by whom."""


@dataclass(frozen=True)
class Correction:
    """The label that a patch shall have; `before` is the one that the file says it had, or blank."""

    id: str
    label: str
    before: str
    where: str
    """the file and the line"""


def correct_labels(
    rows: list[Row], config: DataConfig, source: Path, screen: Screen
) -> tuple[list[Row], Mapping[str, int]]:
    """The rows with the labels that the corrections give, and how many changed by `from -> to`.

    `source` is the label CSV or the folder that the rows come from. HistoError names the line whose
    id is no patch's or whose label is no class's.
    """
    if config.corrections is None:
        return rows, {}
    every = read_corrections(config.corrections, config, screen)
    found = match_corrections(every, rows, source)
    changed: Counter[tuple[str, str]] = Counter()
    fixed = []
    for row in rows:
        label = found.get(row.id, row.label)
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


def read_corrections(path: Path, config: DataConfig, screen: Screen) -> list[Correction]:
    """The corrections in `id,label`, or in a review's suspects.csv with `corrected` filled."""
    if not path.is_file():
        raise HistoError(f"no corrections CSV {path}")
    header = read_header(path)
    filled = CORRECTED in header
    columns: list[str | Column] = [
        id_column(config.id_column if config.id_column in header else "id"),
        label_column(config.label_column if config.label_column in header else "label"),
        *([CORRECTED] if filled else []),
    ]
    found = []
    for line, (name, *labels) in read_rows(path, columns, may_be_empty=True, say=screen.say):
        where = f"{path.name}, line {line}"
        if labels[-1]:
            before = labels[0] if filled else ""
            found.append(Correction(check_id(name, where), labels[-1], before, where))
        elif not filled:  # a blank `corrected` is a row that the user leaves as it is
            raise HistoError(f"{where}: the label of {name} is blank")
    if filled and not found:
        raise HistoError(f"{path}: no row has its right label in the column {CORRECTED} yet")
    return found


def match_corrections(
    every: Sequence[Correction], rows: Sequence[Row], source: Path
) -> dict[str, str]:
    """The new label of each id that has one, as the label table writes id and label.

    Refuses ids without a patch, labels without a class, two labels for one id, and corrections that
    were made from other labels.
    """
    known: dict[str, set[str]] = {}
    lookup = IdLookup()
    for row in rows:
        known.setdefault(row.id, set()).add(row.label)
        lookup.add(row.id, row.id)
    classes = {row.label for row in rows}
    found: dict[str, str] = {}
    for each in every:
        name = each.id if each.id in known else lookup.get(each.id)
        if name is None:
            raise HistoError(f"{each.where}: no patch {each.id} in {source.name}")
        label, before = (_as_class(text, classes) for text in (each.label, each.before))
        if label not in classes:
            some = ", ".join(sorted(classes)[:8])
            raise HistoError(
                f"{each.where}: the label {label} is no class of {source.name} ({some})"
            )
        if before and not known[name] & {before, label}:
            raise HistoError(
                f"{each.where}: {name} was {before} there, but is {min(known[name])} in "
                f"{source.name}: these corrections are of other labels"
            )
        if found.setdefault(name, label) != label:
            raise HistoError(
                f"{each.where}: {name} is {label}, but {found[name]} in an earlier line"
            )
    return found


def _as_class(text: str, classes: set[str]) -> str:
    """A label as the table writes it: in NFC, and `1` where a spreadsheet made `1.0` of it."""
    text = unicodedata.normalize("NFC", text)
    whole = re.fullmatch(r"([+-]?\d+)\.0*", text)
    return whole[1] if whole and text not in classes and whole[1] in classes else text
