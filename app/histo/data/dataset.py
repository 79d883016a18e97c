"""Labels, files, split and decoded pixels of a training run, checked and joined."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from histo.config import TrainConfig
from histo.data.decode import SHA1, read_patch
from histo.data.ids import stem_of
from histo.data.label_table import LabelTable, find_groups, say_similar_groups
from histo.data.near import near_across
from histo.data.patch_files import PatchFiles
from histo.data.split import (
    check_split,
    fold_of,
    grouped_split,
    on_both_sides,
    random_split,
    with_every_class,
    with_first,
)
from histo.data.store import Store, open_store, store_folder
from histo.errors import HistoError
from histo.pixels.fit import Fit, check_before
from histo.run.split import Leak, Split
from histo.screen import Screen, counted

LOOKED_AT = 32
"""How many patches are read for their size before it is resized, so that it costs no time."""


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
    skipped: dict[str, str] = field(default_factory=dict)
    """ids of patches that were left out, and why"""
    corrected: Mapping[str, int] = field(default_factory=dict)
    """how many labels were changed, by `from -> to`"""
    side: int = 0
    """of the first patch in px after the crop, before it is resized"""

    @property
    def valid_ids(self) -> list[str]:
        """The ids of the validation patches, in table order."""
        return [self.ids[i] for i in np.flatnonzero(self.valid)]

    @property
    def train_count(self) -> int:
        """How many patches are for training."""
        return len(self.ids) - int(self.valid.sum())

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


def load_dataset(
    config: TrainConfig, table: LabelTable, screen: Screen, known: KnownSplit | None = None
) -> Dataset:
    """Split and decoded pixels of a label table; raises HistoError for whatever is wrong.

    A `known` split is used as it is: it was checked when it was made.
    """
    if known and config.skip_bad:  # those left out when the run was started
        table = table.pick([n for n, row in enumerate(table.rows) if row.id in known.sides])
    sides = read_split(known, config, table) if known else choose_split(config, table)
    if not known:
        check_split(table.labels, sides.valid, sides.split.kind)
        say_similar_groups(sides.groups or [], sides.unit, screen)
    folder = None if config.no_store else store_folder(config.data, config.store)
    store = open_store(table.paths, folder, Fit(config.crop, config.size), screen, config.skip_bad)
    skipped = {table.rows[place].id: why for place, why in store.unusable.items()}
    if skipped:
        good = [n for n in range(len(table.rows)) if n not in store.unusable]
        table, store, sides = table.pick(good), store.pick(good), sides.pick(good)
        check_split(table.labels, sides.valid, sides.split.kind)
        why = next(iter(skipped.values()))
        screen.say(f"{counted(len(skipped), 'patch')} left out that cannot be used, as {why}")
    labels, ids = table.labels, [row.id for row in table.rows]
    say_changed_ids(ids, store, screen)
    if sides.split.kind == "random" and not known:
        valid = with_first(sides.valid, store.sha1)
        valid = with_every_class(valid, labels, store.sha1, config.seed)
        sides = replace(sides, valid=valid)
        check_split(labels, sides.valid)
    given = sides.split.kind in ("column", "folders") and not known
    leak = check_leak(config, find_leak(ids, sides, store), given, screen)
    say_classes(table, store.side, screen)
    if not known and not config.folds:
        say_near(ids, sides.valid, store, config.seed, screen)
    split = replace(sides.split, leak=leak)
    return Dataset(
        *(ids, labels, sides.valid, table.vocab, store, split, sides.groups, sides.unit),
        skipped=skipped,
        corrected=table.corrected,
        side=side_of(config, table, store),
    )


def side_of(config: TrainConfig, table: LabelTable, store: Store) -> int:
    """Side of a patch in px before it is resized; read from files only where mpp depends on it."""
    if config.crop or config.size is None or config.mpp is None:
        return config.crop or store.side
    return common_side(table.paths, config.size)


def common_side(paths: PatchFiles, size: int) -> int:
    """Side in px of the files of patches; HistoError where they differ, so that no mpp is theirs.

    Of many patches only some are read.
    """
    side = int(read_patch(paths[0]).shape[0])
    for place in range(0, len(paths), max(1, len(paths) // LOOKED_AT)):
        check_before(read_patch(paths[place]), side, size, paths[place], paths[0])
    return side


def check_leak(config: TrainConfig, leak: Leak, given: bool, screen: Screen) -> Leak:
    """Refuse the leak of a given split, unless it is allowed; note any other."""
    if leak and given and not config.allow_leak:
        raise HistoError(
            f"the given split leaks: {leak}", "mend it", "{allow_leak} trains all the same"
        )
    if leak:
        screen.say(f"note: the split leaks: {leak}")
    return leak


def say_near(
    ids: Sequence[str], valid: NDArray[np.bool_], store: Store, seed: int, screen: Screen
) -> None:
    """Note patches of validation that a training patch nearly equals, in a sample of both."""
    pairs, count = near_across(valid, store, seed)
    if pairs:
        near = len({other for _, other in pairs})
        one, other = pairs[0]
        screen.say(
            f"note: {near:,} of {counted(count, 'validation patch')} compared nearly equal a "
            f"training patch, as {ids[other]} and {ids[one]}: expect less on new slides (histo check "
            "lists all)"
        )


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
    check_split(data.labels, valid, "folds")
    return replace(data, valid=valid, split=replace(data.split, folds=0))


@dataclass(frozen=True)
class Sides:
    """Which patches validate (bool [N]), how that was decided, and the groups [N] where known."""

    valid: NDArray[np.bool_]
    split: Split
    unit: str = ""
    """what a group is: the name of its column"""
    groups: list[str] | None = None

    def pick(self, places: Sequence[int]) -> Sides:
        """The sides of the patches in these places."""
        groups = self.groups and [self.groups[place] for place in places]
        return replace(self, valid=self.valid[list(places)], groups=groups)


def choose_split(config: TrainConfig, table: LabelTable) -> Sides:
    """The split given in a column or by folders, else one by group, else a random one."""
    unit, groups = find_groups(config, table)
    sides = [row.split for row in table.rows]
    if any(sides):
        valid = np.array([side == "valid" for side in sides])
        column = config.split_column or ""
        return Sides(valid, Split("column" if column else "folders", column), unit, groups)
    if groups is None:
        valid = random_split(table.labels, config.valid_pct, config.seed)
        return Sides(valid, Split("random"))
    valid = grouped_split(table.labels, groups, config.valid_pct, config.seed)
    return Sides(valid, Split("grouped", unit, len(set(groups))), unit, groups)


def read_split(known: KnownSplit, config: TrainConfig, table: LabelTable) -> Sides:
    """The split of a run as its split.csv has it (with folds it does not say who validates)."""
    strange = next((row for row in table.rows if row.id not in known.sides), None)
    if strange is not None:
        raise HistoError(
            f"{table.place(strange)}: {strange.id} is not in the run's split: the run was started "
            "on other labels"
        )
    valid = np.array([known.sides[row.id] == "valid" for row in table.rows])
    unit, groups = find_groups(config, table)
    return Sides(valid, known.split, unit or known.unit, groups)


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
    stems = [stem_of(name).rpartition("/")[2] for name in ids]
    pairs = zip(stems, store.sha1.tolist(), strict=True)
    changed = [name for name, digest in pairs if SHA1.fullmatch(name) and name != digest.decode()]
    if changed:
        screen.say(
            f"note: {counted(len(changed), 'id')} named by a SHA-1 that is not of the pixels, "
            f"{changed[0]} first (histo check lists more)"
        )
