"""Near-duplicates on both sides of a split, looked for in a sample before training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo.data.check.duplicates import near_pairs, thumbnails
from histo.data.check.quality import BLANK
from histo.data.store import Store

VALID, TRAIN = 500, 2000
"""Patches of each side that are compared. Where every patch of validation has a near-duplicate among
160,000 training patches, some six are found."""
BATCH = 256
"""Patches that are read at once."""


def near_across(
    valid: NDArray[np.bool_], store: Store, seed: int
) -> tuple[list[tuple[int, int]], int]:
    """Pairs of places, train and valid, of one picture turned, flipped, re-saved or resized.

    Also how many validation patches were compared. Equal patches are left out: they are a leak of
    their own.
    """
    rng = np.random.default_rng(seed)
    sides = [
        np.sort(rng.permutation(np.flatnonzero(valid == side))[:most])
        for side, most in ((True, VALID), (False, TRAIN))
    ]
    places = np.concatenate(sides)
    parts = [places[i : i + BATCH] for i in range(0, len(places), BATCH)]
    thumbs = np.concatenate([thumbnails(store.take(part)) for part in parts])
    shown = np.flatnonzero(thumbs.std((1, 2)) >= BLANK)  # blank patches are all alike
    pairs = places[shown[near_pairs(thumbs[shown])]]
    found = [
        (int(one), int(other)) if valid[other] else (int(other), int(one))
        for one, other in pairs
        if valid[one] != valid[other] and store.sha1[one] != store.sha1[other]
    ]
    return found, len(sides[0])
