"""Where the model looked in an uploaded patch: how its answer changes as parts of it are covered.

Zeiler and Fergus, 2014, arXiv:1311.2901. It asks the model as it is, whichever engine runs it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo.pixels.fit import Pixels

CELLS = 8
"""Places along a side at which the cover is put."""
MOST = 16
"""Patches of one request for which it is computed: each takes CELLS² more predictions."""


def covered(patch: Pixels) -> Pixels:
    """The patch uint8 [S, S, 3] with each place covered by its mean colour, uint8 [CELLS², S, S, 3].

    A cover is two cells wide, so that what lies on the border between two is covered once.
    """
    side = len(patch)
    mean = patch.reshape(-1, 3).mean(0).round().astype(np.uint8)
    edges = np.linspace(0, side, CELLS + 1)
    half = side / CELLS / 2
    found = np.repeat(patch[None], CELLS * CELLS, 0)
    for n in range(CELLS * CELLS):
        (top, low), (left, right) = (
            (max(0, round(edges[k] - half)), min(side, round(edges[k + 1] + half)))
            for k in divmod(n, CELLS)
        )
        found[n, top:low, left:right] = mean
    return found


def falls(whole: float, parts: NDArray[np.float64]) -> list[list[float]]:
    """By how much the probability falls as each place is covered, [CELLS, CELLS]; below 0 it rises."""
    return [[round(float(v), 4) for v in row] for row in (whole - parts).reshape(CELLS, CELLS)]
