"""The patches that are trained on: their labels, files and groups, from a CSV or from folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from histo.config import DataConfig, TrainConfig
from histo.data.columns import id_column, read_rows
from histo.data.corrections import correct_labels
from histo.data.folders import (
    FolderLabels,
    groups_from_paths,
    names_classes,
    read_folders,
    without_test,
)
from histo.data.groups import groups_of
from histo.data.ids import IdLookup, check_id, looks_like_formula
from histo.data.labels import (
    Row,
    first_of_each,
    make_vocab,
    missing_classes,
    read_labels,
    similar_classes,
)
from histo.data.patch_files import PatchFiles, PatchIndex, list_patches
from histo.errors import HistoError
from histo.screen import Screen, counted

FEW = 5
"""Names that a note lists."""


@dataclass(frozen=True)
class LabelTable:
    """The labelled patches that are used, and the file of each; nothing is decoded yet."""

    rows: list[Row]
    paths: PatchFiles
    vocab: list[str]
    source: Path
    """the label CSV, or the folder whose folders are the labels"""
    unit: str = ""
    """what a group is, where folders name it"""
    corrected: Mapping[str, int] = field(default_factory=dict)
    """how many labels were changed, by `from -> to`"""

    @property
    def labels(self) -> list[str]:
        """The label of each row."""
        return [row.label for row in self.rows]

    def place(self, row: Row) -> str:
        """Where a row stands, for an error."""
        return f"{self.source.name}, line {row.line}" if row.line else str(self.source / row.id)

    def pick(self, places: Sequence[int]) -> LabelTable:
        """The rows in these places."""
        rows = [self.rows[place] for place in places]
        return replace(self, rows=rows, paths=self.paths.pick(places))


def read_label_table(config: TrainConfig, screen: Screen) -> LabelTable:
    """Labels and their files, checked; fast, and without torch."""
    table = read_labelled(config, screen, config.split_column, config.exclude)
    if len(table.vocab) < 2:
        raise HistoError(
            f"{table.source} has one class only ({table.vocab[0]!r}): there is nothing to learn"
        )
    say_similar_classes(table.labels, screen)
    return table


def read_labelled(
    config: DataConfig,
    screen: Screen,
    split_column: str | None = None,
    exclude: Path | None = None,
    training: bool = True,
) -> LabelTable:
    """The labelled patches of a CSV, or of a tree of folders, each once.

    Folders called test are not trained on; without `training` they alone are used, if there are any.
    """
    if config.label_table is None:
        table = _from_folders(config, screen, exclude, training)
    else:
        table = _from_csv(config, config.label_table, screen, split_column, exclude)
    table = replace(table, vocab=make_vocab({row.label for row in table.rows}))
    say_formulas([*table.vocab, *(row.id for row in table.rows)], screen)
    return table


def _from_csv(
    config: DataConfig, source: Path, screen: Screen, split_column: str | None, exclude: Path | None
) -> LabelTable:
    rows = read_labels(source, config.id_column, config.label_column, split_column, screen.say)
    rows, corrected = correct_labels(rows, config, source, screen)
    kept = not_excluded(rows, exclude, config.id_column, screen)
    rows = [rows[n] for n in kept]
    table = LabelTable(rows, PatchIndex(config.images_folder).locate(rows, source), [], source)
    table = replace(table, corrected=corrected)
    places = first_of_each(rows, table.paths.names, source)
    if len(places) == len(rows):
        return table
    screen.say(f"{len(rows) - len(places)} repeated rows of {source.name} are left out")
    return table.pick(places)


def _from_folders(
    config: DataConfig, screen: Screen, exclude: Path | None, training: bool
) -> LabelTable:
    found = read_labelled_folders(config, screen)
    found = without_test(found, config.images_folder, screen) if training else test_of(found)
    source = config.images_folder
    rows, corrected = correct_labels(found.rows, config, source, screen)
    table = LabelTable(rows, found.paths, [], source, found.unit, corrected)
    return table.pick(not_excluded(found.rows, exclude, config.id_column, screen))


def read_labelled_folders(config: DataConfig, screen: Screen) -> FolderLabels:
    """The patches of a tree; HistoError where there is no tree, and no label CSV either."""
    paths = list_patches(config.images_folder)
    if config.label_from is None and not names_classes(paths):
        raise HistoError(
            f"no label CSV {config.labels_csv}",
            "give {labels} if it is elsewhere",
            "make a folder for each class",
        )
    if not paths:
        raise HistoError(f"{config.images_folder} holds no image (TIF, PNG, JPEG, BMP, WebP)")
    return read_folders(paths, config.label_from, config.group_from, screen)


def test_of(found: FolderLabels) -> FolderLabels:
    """The patches of the folder test; all of them where there is none."""
    kept = [n for n, row in enumerate(found.rows) if row.split == "test"]
    if not kept:
        return found
    return FolderLabels([found.rows[n] for n in kept], found.paths.pick(kept), found.unit)


def not_excluded(rows: Sequence[Row], exclude: Path | None, ids: str, screen: Screen) -> list[int]:
    """The places of rows that are not in the table of exclusions; `ids` is its column of ids."""
    if exclude is None:
        return list(range(len(rows)))
    listed = IdLookup()
    for line, (name,) in read_rows(exclude, [id_column(ids)], True):
        listed.add(check_id(name, f"{exclude.name}, line {line}"), "excluded")
    kept = [n for n, row in enumerate(rows) if listed.get(row.id) is None]
    if not kept:
        raise HistoError(f"{exclude} leaves no patch to train on")
    left = counted(len(rows) - len(kept), "patch")
    screen.say(f"{left} left out, as {exclude.name} says")
    return kept


def find_groups(config: DataConfig, table: LabelTable) -> tuple[str, list[str] | None]:
    """What a group is and the group of each row: from a table, from paths or from folders, or None."""
    groups = getattr(config, "groups", None)
    if groups is not None:
        return groups_of(groups, (row.id for row in table.rows), config.id_column)
    if table.unit:
        return table.unit, [row.group for row in table.rows]
    return groups_from_paths(config.group_from, table.paths)


def say_similar_groups(groups: Iterable[str], unit: str, screen: Screen) -> None:
    """Note groups that look alike: one slide written in two ways would be on both sides of a split."""
    alike = similar_classes(sorted(set(groups)))
    for names in alike[:FEW]:
        listed = ", ".join(map(repr, names[:FEW]))
        screen.say(f"note: names of groups ({unit}) that look alike: {listed}")
    if len(alike) > FEW:
        screen.say(f"  … and {len(alike) - FEW:,} more")


def say_formulas(names: Sequence[str], screen: Screen) -> None:
    """Note ids and classes that a spreadsheet would take for formulas in the tables that are written."""
    found = [name for name in names if looks_like_formula(name)]
    if found:
        screen.say(
            f"note: {counted(len(found), 'name')} that a spreadsheet takes for a formula, as "
            f"{found[0]!r}: import the CSVs as text"
        )


def say_similar_classes(labels: Sequence[str], screen: Screen) -> None:
    """Note classes that look alike, or like a missing value."""
    counts = Counter(labels)
    for names in similar_classes(counts):
        listed = ", ".join(f"{name!r} ({counts[name]:,})" for name in names)
        screen.say(f"note: classes that look alike: {listed}")
    for name in missing_classes(counts):
        screen.say(f"note: class {name!r} may be a missing label")
