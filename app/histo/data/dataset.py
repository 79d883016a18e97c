"""Labels, files, split and decoded pixels of a training run, checked and joined."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from histo.config import TrainConfig
from histo.data.corrections import correct_labels
from histo.data.decode import SHA1
from histo.data.groups import groups_of
from histo.data.labels import Row, make_vocab, read_labels, read_rows, without_repeats
from histo.data.patch_files import PatchFiles, PatchIndex
from histo.data.split import (
    check_split,
    fold_of,
    grouped_split,
    on_both_sides,
    random_split,
    with_first,
)
from histo.data.store import Store, open_store, store_folder
from histo.errors import HistoError
from histo.pixels.fit import Fit
from histo.run.split import Leak, Split
from histo.screen import Screen, counted


@dataclass(frozen=True)
class Dataset:
    """The data of a run: one entry a patch in `ids`, `labels`, `valid` and the store's rows."""

    ids: list[str]
    labels: list[str]
    valid: NDArray[np.bool_]
    vocab: list[str]
    store: Store
    split: Split
    groups: list[str] | None = None
    unit: str = ""
    """what a group is: slide, patient, hospital"""
    corrected: Mapping[str, int] = field(default_factory=dict)
    """how many labels were changed, by `from -> to`"""

    @property
    def valid_ids(self) -> list[str]:
        """The ids of the validation patches, in table order."""
        return [self.ids[i] for i in np.flatnonzero(self.valid)]

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 over the sorted `id,label` lines, and over the pixels."""
        lines = sorted(f"{i},{x}\n" for i, x in zip(self.ids, self.labels, strict=True))
        labels = hashlib.sha256("".join(lines).encode()).hexdigest()
        return {"labels": labels, "pixels": self.store.fingerprint()}


@dataclass(frozen=True)
class KnownSplit:
    """The split that a run was started with: the side of each id, how it was made, what a group is."""

    sides: dict[str, str]
    split: Split
    unit: str


@dataclass(frozen=True)
class LabelTable:
    """The rows of the label CSV that are used, and the file of each; nothing is decoded yet."""

    rows: list[Row]
    paths: PatchFiles
    vocab: list[str]
    corrected: Mapping[str, int] = field(default_factory=dict)
    """how many labels were changed, by `from -> to`"""

    @property
    def labels(self) -> list[str]:
        """The label of each row."""
        return [row.label for row in self.rows]


def read_label_table(config: TrainConfig, screen: Screen) -> LabelTable:
    """Labels and their files, checked; fast, and without torch."""
    table = config.labels_csv
    rows = read_labels(table, config.id_column, config.label_column, config.split_column)
    rows, corrected = correct_labels(rows, config, screen)
    rows = without_excluded(rows, config, screen)
    rows, repeats = without_repeats(rows, table)
    if repeats:
        screen.say(f"{repeats} repeated rows of {table.name} are left out")
    vocab = make_vocab([row.label for row in rows])
    if len(vocab) < 2:
        raise HistoError(f"{table} has one class only ({vocab[0]!r}): there is nothing to learn")
    return LabelTable(rows, PatchIndex(config.images_folder).locate(rows, table), vocab, corrected)


def load_dataset(
    config: TrainConfig, table: LabelTable, screen: Screen, known: KnownSplit | None = None
) -> Dataset:
    """Split and decoded pixels of a label table; raises HistoError for whatever is wrong.

    A `known` split is used as it is: it was checked when it was made.
    """
    labels = table.labels
    sides = read_split(known, config, table.rows) if known else choose_split(config, table.rows)
    if not known:
        check_split(labels, sides.valid)
    folder = None if config.no_store else store_folder(config.data, config.store)
    store = open_store(table.paths, folder, Fit(config.crop, config.size), screen)
    ids = [row.id for row in table.rows]
    say_changed_ids(ids, store, screen)
    if sides.split.kind == "random" and not known:
        sides = replace(sides, valid=with_first(sides.valid, store.sha1))
        check_split(labels, sides.valid)
    leak = check_leak(config, find_leak(ids, sides, store), known is not None, screen)
    say_classes(table, store.side, screen)
    split = replace(sides.split, leak=leak)
    return Dataset(
        *(ids, labels, sides.valid, table.vocab, store, split, sides.groups, sides.unit),
        corrected=table.corrected,
    )


def check_leak(config: TrainConfig, leak: Leak, known: bool, screen: Screen) -> Leak:
    """Refuse the leak of a given split, unless it is allowed; note any other."""
    if leak and config.split_column and not config.allow_leak and not known:
        raise HistoError(
            f"the given split leaks: {leak}", "mend it", "{allow_leak} trains all the same"
        )
    if leak:
        screen.say(f"note: the split leaks: {leak}")
    return leak


def say_classes(table: LabelTable, side: int, screen: Screen) -> None:
    """How many patches there are, of which size, and how many of each class."""
    counts = Counter(table.labels)
    classes = ", ".join(f"{counts[name]:,} {name!r}" for name in table.vocab[:8])
    more = ", …" if len(table.vocab) > 8 else ""
    screen.say(f"{len(table.rows):,} patches of {side}x{side} px: {classes}{more}")


def choose_folds(data: Dataset, config: TrainConfig) -> NDArray[np.int64]:
    """The fold of each patch [N]; groups and equal patches are never in two."""
    folds = config.folds or 1
    found = fold_of(data.labels, data.groups, folds, config.seed)
    if data.groups is None:
        found = with_first(found, data.store.sha1)
    return found


def fold(data: Dataset, folds: NDArray[np.int64], number: int) -> Dataset:
    """The data of one fold's run: the patches of fold `number` validate."""
    valid = folds == number
    check_split(data.labels, valid)
    return replace(data, valid=valid)


@dataclass(frozen=True)
class Sides:
    """Which patches validate (bool [N]), how that was decided, and the groups [N] where known."""

    valid: NDArray[np.bool_]
    split: Split
    unit: str = ""
    """what a group is: the name of its column"""
    groups: list[str] | None = None


def choose_split(config: TrainConfig, rows: list[Row]) -> Sides:
    """The split given in a column, else one by group, else a random one."""
    unit, groups = find_groups(config, rows)
    if config.split_column:
        valid = np.array([row.split == "valid" for row in rows])
        return Sides(valid, Split("column", config.split_column), unit, groups)
    labels = [row.label for row in rows]
    if groups is None:
        return Sides(random_split(labels, config.valid_pct, config.seed), Split("random"))
    valid = grouped_split(labels, groups, config.valid_pct, config.seed)
    return Sides(valid, Split("grouped", unit, len(set(groups))), unit, groups)


def read_split(known: KnownSplit, config: TrainConfig, rows: list[Row]) -> Sides:
    """The split of a run as its split.csv has it (with folds it does not say who validates)."""
    strange = next((row for row in rows if row.id not in known.sides), None)
    if strange is not None:
        raise HistoError(
            f"{config.labels_csv.name}, line {strange.line}: {strange.id} is not in the run's "
            "split: the run was started on other labels"
        )
    valid = np.array([known.sides[row.id] == "valid" for row in rows])
    unit, groups = find_groups(config, rows)
    return Sides(valid, known.split, unit or known.unit, groups)


def find_groups(config: TrainConfig, rows: list[Row]) -> tuple[str, list[str] | None]:
    """What a group is and the group of each row, from the table of groups; None without a table."""
    if config.groups is None:
        return "", None
    return groups_of(config.groups, (row.id for row in rows), config.id_column)


def without_excluded(rows: list[Row], config: TrainConfig, screen: Screen) -> list[Row]:
    """The rows whose ids are not in the table of exclusions."""
    if config.exclude is None:
        return rows
    listed = {name for _, (name,) in read_rows(config.exclude, [config.id_column], True)}
    kept = [row for row in rows if row.id not in listed]
    if not kept:
        raise HistoError(f"{config.exclude} leaves no patch to train on")
    left = counted(len(rows) - len(kept), "patch")
    screen.say(f"{left} left out, as {config.exclude.name} says")
    return kept


def find_leak(ids: list[str], sides: Sides, store: Store) -> Leak:
    """Groups, and equal patches, on both sides of a split."""
    groups = sides.groups or []
    group_rows = on_both_sides(sides.valid, groups) if groups else []
    patch_rows = on_both_sides(sides.valid, store.sha1)
    return Leak(
        len(group_rows),
        len(patch_rows),
        sides.unit or "group",
        tuple(groups[row] for row in group_rows[:3]),
        tuple(ids[row] for row in patch_rows[:3]),
    )


def say_changed_ids(ids: list[str], store: Store, screen: Screen) -> None:
    """Note ids that look like a SHA-1 but are not that of their pixels; the store has the SHA-1s."""
    stems = [name.partition(".")[0] for name in ids]
    known = zip(stems, store.sha1.tolist(), strict=True)
    changed = [name for name, digest in known if SHA1.fullmatch(name) and name != digest.decode()]
    if changed:
        screen.say(
            f"note: {counted(len(changed), 'id')} named by a SHA-1 that is not of the pixels, "
            f"{changed[0]} first (histo check lists more)"
        )
