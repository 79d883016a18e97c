"""lesions.csv: the places where the map is highest, in the form of Camelyon16's results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo.slides.heat import Heat

LOWEST = 0.1
"""Places below this probability are no candidates."""
APART_UM = 190.0
"""Distance within which only the highest place is kept, in µm: that of the published baseline
(NCRF, arXiv:1806.07064: 12 px at Camelyon16's level 6)."""


@dataclass(frozen=True)
class Lesion:
    """A candidate: its confidence, and its place in level-0 px."""

    confidence: float
    x: int
    y: int


def find_lesions(heat: Heat, code: int, mpp: float) -> list[Lesion]:
    """The highest places of a class, most confident first, none near a higher one.

    Of equal places the one with the higher neighbourhood is taken first. `mpp` is that of level 0.
    """
    values = np.nan_to_num(heat.of(code), nan=-1.0)
    around = neighbourhood(values)
    radius = max(1, int(APART_UM / (heat.grid.cell * mpp)))
    disc = np.add.outer(np.arange(-radius, radius + 1) ** 2, np.arange(-radius, radius + 1) ** 2)
    near = disc <= radius**2
    rows, columns = np.nonzero(values >= LOWEST)
    order = np.lexsort((columns, rows, -around[rows, columns], -values[rows, columns]))
    free = np.pad(np.ones(values.shape, bool), radius)
    found = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if not free[row + radius, column + radius]:
            continue
        free[row : row + 2 * radius + 1, column : column + 2 * radius + 1] &= ~near
        x, y = heat.corner(column + 0.5, row + 0.5)
        found.append(Lesion(float(values[row, column]), round(x), round(y)))
    return found


def neighbourhood(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each cell and its eight neighbours; outside counts as 0."""
    padded = np.pad(np.maximum(values, 0), 1)
    rows, columns = values.shape
    parts = [
        padded[down : down + rows, right : right + columns]
        for down in range(3)
        for right in range(3)
    ]
    return np.asarray(sum(parts) / 9.0, np.float64)
