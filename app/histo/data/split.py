"""Which patches train and which validate."""

from __future__ import annotations

from collections import Counter

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
    except ValueError:
        raise HistoError(
            f"{len(labels)} patches cannot be split {100 - valid_pct:g}/{valid_pct:g} with every "
            "class on both sides (give another --valid-pct)"
        ) from None
    mask = np.zeros(len(labels), dtype=bool)
    mask[valid] = True
    return mask


def check_split(labels: list[str], valid: NDArray[np.bool_]) -> None:
    """Refuse a split that leaves a class out of one side."""
    names = np.array(labels)
    for name, where in (("train", ~valid), ("valid", valid)):
        absent = sorted(set(labels) - set(names[where]))
        if absent:
            raise HistoError(
                f"no patch of class {absent[0]!r} in {name} "
                "(more patches of it, another --valid-pct or another --seed)"
            )
