"""Labels, files, split and decoded pixels of a training run, checked and joined."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from histo.config import TrainConfig
from histo.data.labels import (
    PatchIndex,
    Row,
    groups_of,
    make_vocab,
    read_labels,
    read_rows,
    without_repeats,
)
from histo.data.patches import SHA1
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
from histo.plural import counted
from histo.screen import Screen

RANDOM = "random over patches, optimistic on new slides"


@dataclass(frozen=True)
class Patches:
    """The data of a run: one entry a patch in `ids`, `labels`, `valid` and the store's rows."""

    ids: list[str]
    labels: list[str]
    valid: NDArray[np.bool_]
    vocab: list[str]
    store: Store
    split: str
    """how it was split, for a person"""
    leak: str = ""
    """what is on both sides of a given split, where that was allowed"""
    groups: list[str] | None = None
    group_column: str = ""

    @property
    def valid_ids(self) -> list[str]:
        """The ids of the validation patches, in table order."""
        return [self.ids[i] for i in np.flatnonzero(self.valid)]

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 over the sorted `id,label` lines, and over the pixels."""
        lines = sorted(f"{i},{x}\n" for i, x in zip(self.ids, self.labels, strict=True))
        labels = hashlib.sha256("".join(lines).encode()).hexdigest()
        return {"labels": labels, "pixels": self.store.fingerprint()}


Given = tuple[dict[str, str], str, str]
"""A split that was made before: the side of each id, how it was made, the groups' column."""


def read_patches(config: TrainConfig, screen: Screen, given: Given | None = None) -> Patches:
    """Labels, files, split and decoded pixels; raises HistoError for whatever is wrong.

    With a split that was `given` none is made, nor judged: it was when it was made.
    """
    table = config.labels_csv
    rows = read_labels(table, config.id_column, config.label_column, config.split_column)
    rows = without_excluded(rows, config, screen)
    rows, repeats = without_repeats(rows, table)
    if repeats:
        screen.say(f"{repeats} repeated rows of {table.name} are left out")
    labels = [row.label for row in rows]
    vocab = make_vocab(labels)
    if len(vocab) < 2:
        raise HistoError(f"{table} has one class only ({vocab[0]!r}): there is nothing to learn")
    paths = PatchIndex(config.images_folder).locate(rows, table)
    split = given_split(given, config, rows) if given else choose_split(config, rows)
    if not given:
        check_split(labels, split.valid)
    folder = None if config.no_store else store_folder(config.data, config.store)
    store = open_store(paths, folder, config.crop, config.size, screen)
    ids = [row.id for row in rows]
    say_changed_ids(ids, store, screen)
    if split.how == RANDOM and not given:
        split = replace(split, valid=with_first(split.valid, store.sha1))
        check_split(labels, split.valid)
    leak = find_leak(ids, split, store)
    if leak and config.split_column and not config.allow_leak and not given:
        raise HistoError(f"the given split leaks: {leak} (mend it, or --allow-leak)")
    if leak:
        screen.say(f"note: the split leaks: {leak}")
    counts = Counter(labels)
    screen.say(
        f"{len(rows):,} patches of {store.side}x{store.side} px: "
        f"{', '.join(f'{counts[name]:,} {name!r}' for name in vocab[:8])}"
        f"{', …' if len(vocab) > 8 else ''}"
    )
    return Patches(
        ids, labels, split.valid, vocab, store, split.how, leak, split.groups, split.column
    )


def choose_folds(patches: Patches, config: TrainConfig) -> NDArray[np.int64]:
    """The fold of each patch [N]; groups and equal patches are never in two."""
    folds = config.folds or 1
    found = fold_of(patches.labels, patches.groups, folds, config.seed)
    if patches.groups is None:
        found = with_first(found, patches.store.sha1)
    return found


def fold(patches: Patches, folds: NDArray[np.int64], number: int) -> Patches:
    """The data of one fold's run: the patches of fold `number` validate."""
    valid = folds == number
    check_split(patches.labels, valid)
    return replace(patches, valid=valid)


@dataclass(frozen=True)
class Split:
    """Which patches validate (bool [N]), in words how that was chosen, and their groups [N]."""

    valid: NDArray[np.bool_]
    how: str = RANDOM
    column: str = ""
    groups: list[str] | None = None


def choose_split(config: TrainConfig, rows: list[Row]) -> Split:
    """The split given in a column, else one by group, else a random one."""
    column, groups = find_groups(config, rows)
    if config.split_column:
        valid = np.array([row.split == "valid" for row in rows])
        return Split(valid, f"as the column {config.split_column} says", column, groups)
    labels = [row.label for row in rows]
    if groups is None:
        return Split(random_split(labels, config.valid_pct, config.seed))
    valid = grouped_split(labels, groups, config.valid_pct, config.seed)
    how = f"by {column}: none of {len(set(groups)):,} is on both sides"
    return Split(valid, how, column, groups)


def given_split(given: Given, config: TrainConfig, rows: list[Row]) -> Split:
    """The split of a run as its split.csv has it (for folds, who validates is not said there)."""
    sides, how, column = given
    strange = next((row for row in rows if row.id not in sides), None)
    if strange is not None:
        raise HistoError(
            f"{config.labels_csv.name}, line {strange.line}: {strange.id} is not in the run's "
            "split: it was started on other labels"
        )
    valid = np.array([sides[row.id] == "valid" for row in rows])
    now, groups = find_groups(config, rows)
    return Split(valid, how, now or column, groups)


def find_groups(config: TrainConfig, rows: list[Row]) -> tuple[str, list[str] | None]:
    """The column that `--groups` names and the group of each row; of neither where it names none."""
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


def find_leak(ids: list[str], split: Split, store: Store) -> str:
    """What is on both sides of a split, groups and equal patches, for a person; else nothing."""
    found = []
    if split.groups and (rows := on_both_sides(split.valid, split.groups)):
        some = ", ".join(split.groups[row] for row in rows[:3])
        found.append(f"{counted(len(rows), split.column)} on both sides, as {some}")
    if rows := on_both_sides(split.valid, store.sha1):
        some = ", ".join(ids[row] for row in rows[:3])
        found.append(f"{counted(len(rows), 'patch')} with equals on the other side, as {some}")
    return "; ".join(found)


def say_changed_ids(ids: list[str], store: Store, screen: Screen) -> None:
    """Where ids look like the SHA-1 of their pixels, say which are not: decoding told for free."""
    stems = [name.partition(".")[0] for name in ids]
    known = zip(stems, store.sha1.tolist(), strict=True)
    changed = [name for name, digest in known if SHA1.fullmatch(name) and name != digest.decode()]
    if changed:
        screen.say(
            f"note: {counted(len(changed), 'id')} named by a SHA-1 that is not of the pixels, "
            f"{changed[0]} first (histo check lists more)"
        )
