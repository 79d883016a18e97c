"""Which tiles of a grid hold tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo.slides.grid import Grid, Places

LEAST = 0.1
"""A tile with a smaller share of tissue is glass: a px of the mask along its edge is less.
`cut` and `map` have the same rule, so that a map shows tiles such as the model was trained on."""


def all_tiles(grid: Grid) -> Places:
    """Every tile of the grid."""
    return np.argwhere(np.ones((grid.rows, grid.columns), bool))[:, ::-1].astype(np.int32)


def tissue_tiles(grid: Grid, mask: NDArray[np.bool_], pixel: float) -> Places:
    """The tiles of which at least a share of LEAST is tissue, int32 [N, 2] column and row.

    `mask` bool [H, W] begins where the grid begins; its pixels are `pixel` level-0 px wide.
    """
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(0, dtype=np.int64).cumsum(1)
    (x0, x1), (y0, y1) = (
        _edges(count, grid, pixel, most)
        for count, most in zip((grid.columns, grid.rows), mask.shape[::-1], strict=True)
    )
    found = []
    for row in range(grid.rows):  # a row at a time: the whole grid may be large
        high, low = sums[y0[row]], sums[y1[row]]
        inside = low[x1] - high[x1] - low[x0] + high[x0]
        area = max(1, int(y1[row] - y0[row])) * np.maximum(1, x1 - x0)
        columns = np.flatnonzero(inside >= np.maximum(1, LEAST * area))
        found.append(np.stack([columns, np.full(len(columns), row)], 1).astype(np.int32))
    return np.concatenate(found)


def _edges(
    count: int, grid: Grid, pixel: float, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first mask pixel of each tile along an axis, and the one after its last."""
    corners = np.arange(count) * grid.cell
    first = np.floor(corners / pixel + 1e-6).astype(np.int64)
    last = np.ceil((corners + grid.side * grid.scale) / pixel - 1e-6).astype(np.int64)
    return np.clip(first, 0, most), np.clip(last, 0, most)
