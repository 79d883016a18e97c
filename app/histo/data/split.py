"""Which patches train and which validate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError


def random_split(labels: list[str], valid_pct: float, seed: int) -> NDArray[np.bool_]:
    """A stratified, seeded split: True [N] where a patch validates.

    Each class keeps its share on both sides (scikit-learn's `train_test_split`).
    """
    from sklearn.model_selection import train_test_split

    rare, count = min(Counter(labels).items(), key=lambda item: item[1])
    if count < 2:
        raise HistoError(
            f"class {rare!r} has one patch: it cannot be in both train and valid "
            "(add patches, or leave the class out)"
        )
    try:
        _, valid = train_test_split(
            np.arange(len(labels)), test_size=valid_pct / 100, random_state=seed, stratify=labels
        )
    except ValueError:  # fewer patches on a side than there are classes
        valid = np.empty(0, np.int64)
    mask = np.zeros(len(labels), dtype=bool)
    mask[valid] = True
    return with_every_class(mask, labels, np.arange(len(labels)), seed)


def with_every_class(
    valid: NDArray[np.bool_], labels: Sequence[str], keys: NDArray[Any], seed: int
) -> NDArray[np.bool_]:
    """The split with a patch of every class on both sides, where patches of two `keys` [N] have it.

    For a class that one side lacks, one key, with all patches that share it, changes sides. Which
    one is drawn from the seed.
    """
    mask: NDArray[np.bool_] = valid.copy()
    classes = np.unique(labels, return_inverse=True)[1]
    places = np.unique(keys, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    for code in range(int(classes.max(initial=-1)) + 1):
        mine = classes == code
        for side in (True, False):
            found = np.unique(places[mine])
            if len(found) > 1 and not (mask[mine] == side).any():
                mask[places == rng.choice(found)] = side
    return mask


def grouped_split(
    labels: list[str], groups: list[str], valid_pct: float, seed: int
) -> NDArray[np.bool_]:
    """A seeded split that keeps every group on one side: True [N] where a patch validates.

    Classes are balanced as well as the groups allow: of scikit-learn's `StratifiedGroupKFold` folds
    one, or several that follow each other, by how near size and class shares come to those wanted.
    Of fewer groups than the share needs, as many whole groups validate as come nearest to it, and
    always at least one: of 4 patients one, for any share up to 37 %.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    codes = np.unique(groups, return_inverse=True)[1]
    classes = np.unique(labels, return_inverse=True)[1]
    wanted = np.bincount(classes)
    less = min(valid_pct, 100 - valid_pct) / 100
    part = Fraction(less).limit_denominator(10) if less > 0.1 else Fraction(1, round(1 / less))
    count = int(codes.max()) + 1
    if count < 2:
        raise HistoError(
            f"all patches are of one group ({groups[0]!r}): it cannot be in both train and valid",
            "give patches of more groups",
            "{group_from} none splits by patch, which overstates the result",
        )
    for name in range(len(wanted)):
        where = np.unique(codes[classes == name])
        if len(where) == 1:
            place = int(np.flatnonzero(classes == name)[0])
            raise HistoError(
                f"all patches of class {labels[place]!r} are of one group ({groups[place]!r}): the "
                "class cannot be in both train and valid",
                "give patches of it of more groups",
                "{group_from} none splits by patch, which overstates the result",
            )
    if count < part.denominator:
        part = Fraction(max(1, round(less * count)), count)
    folds = part.denominator
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    each = [rows for _, rows in splitter.split(classes, classes, codes)]
    sides = [
        np.concatenate([each[(first + n) % folds] for n in range(part.numerator)])
        for first in range(folds)
    ]

    def misfit(side: NDArray[np.int64]) -> tuple[int, float]:
        counts = np.bincount(classes[side], minlength=len(wanted))
        absent = (counts == 0) | (counts == wanted)
        return int(absent.sum()), float(np.abs(counts / (wanted * less) - 1).sum())

    mask = np.zeros(len(labels), dtype=bool)
    mask[min(sides, key=misfit)] = True
    return mask if valid_pct <= 50 else ~mask


def fold_of(
    labels: list[str], groups: list[str] | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold (0 to folds - 1) of each patch [N]: classes alike in all, no group in two."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    rare, count = min(Counter(labels).items(), key=lambda item: item[1])
    if count < folds:
        raise HistoError(f"class {rare!r} has {count} patches: too few for {folds} folds")
    if groups is not None and len(set(groups)) < folds:
        raise HistoError(f"{len(set(groups))} groups are too few for {folds} folds")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    found = np.empty(len(labels), np.int64)
    for number, (_, part) in enumerate(splitter.split(labels, labels, groups)):
        found[part] = number
    return found


def with_first(valid: NDArray[Any], keys: NDArray[np.bytes_]) -> NDArray[Any]:
    """A split, or folds, with equal patches (equal `keys` [N]) moved to the side of the first of them."""
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(valid[first[place]])


def on_both_sides(valid: NDArray[np.bool_], keys: Sequence[str] | NDArray[np.bytes_]) -> list[int]:
    """The first row [K] of each key that both trains and validates."""
    names, first, place = np.unique(np.asarray(keys), return_index=True, return_inverse=True)
    count = np.bincount(place, minlength=len(names))
    there = np.bincount(place, valid, minlength=len(names))
    return sorted(first[(there > 0) & (there < count)].tolist())


OTHER = ("add patches of it", "give another {valid_pct} or {seed}")
WAYS: dict[str, tuple[str, ...]] = {
    "column": ("add patches of it there", "correct the column that says train or valid"),
    "folders": ("add patches of it to that folder",),
    "folds": ("add patches of it", "give another {seed}", "give fewer {folds}"),
}
"""How a class gets to the side that lacks it, where the split was not drawn from the seed alone."""


def check_split(labels: list[str], valid: NDArray[np.bool_], kind: str = "random") -> None:
    """Refuse a split that leaves a class out of one side; `kind` is that of histo.run.split, or `folds`."""
    names = np.array(labels)
    for name, where in (("train", ~valid), ("valid", valid)):
        absent = sorted(set(labels) - set(names[where]))
        if absent:
            ways = WAYS.get(kind, OTHER)
            raise HistoError(f"no patch of class {absent[0]!r} in {name}", *ways)
