"""What the tiles say of each cell of the grid: probabilities, calls, areas and the slide's score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from histo.run.calls import call
from histo.slides.grid import Grid, Places

SCORED = 10
"""The score of a slide is the mean over so many of its highest cells."""


@dataclass(frozen=True)
class Scheme:
    """The classes of a map, and which of them it is about."""

    vocab: Sequence[str]
    positive: int
    """its place; without meaning for more than two classes"""
    threshold: float

    @property
    def shown(self) -> list[int]:
        """The classes that maps show: the positive one of two, else all."""
        return [self.positive] if len(self.vocab) == 2 else list(range(len(self.vocab)))

    @property
    def named(self) -> list[str]:
        """Their names."""
        return [self.vocab[code] for code in self.shown]


@dataclass(frozen=True)
class Heat:
    """Probabilities of each cell, those of the tiles over it averaged; nan where no tile is.

    `values` float64 [R, C, K] begins at cell `first` (column, row) of the grid: the rectangle that
    holds all tiles.
    """

    grid: Grid
    scheme: Scheme
    first: tuple[int, int]
    values: NDArray[np.float64]

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Cells that a tile covers, bool [R, C]."""
        return ~np.isnan(self.values[..., 0])

    @cached_property
    def called(self) -> NDArray[np.int64]:
        """The class called of each cell, int64 [R, C]; -1 where no tile is."""
        rows, columns, classes = self.values.shape
        flat = np.nan_to_num(self.values).reshape(-1, classes)
        scheme = self.scheme
        found = call(flat, scheme.threshold, scheme.positive).reshape(rows, columns)
        return np.where(self.known, found, -1)

    def of(self, code: int) -> NDArray[np.float64]:
        """The probability of a class, float64 [R, C]."""
        return self.values[..., code]

    def corner(self, column: float, row: float) -> tuple[float, float]:
        """Level-0 px of a cell's top left corner, by its place in the rectangle."""
        x, y = (
            start + (place + first) * self.grid.cell
            for start, place, first in zip(self.grid.origin, (column, row), self.first, strict=True)
        )
        return x, y


def make_heat(
    grid: Grid, scheme: Scheme, places: Places, probabilities: NDArray[np.float64]
) -> Heat:
    """The cells of all tiles: each the mean of the tiles over it."""
    classes = len(scheme.vocab)
    if not len(places):
        return Heat(grid, scheme, (0, 0), np.full((1, 1, classes), np.nan))
    first, last = places.min(0), places.max(0) + grid.reach
    columns, rows = (last - first).tolist()
    total, count = np.zeros((rows, columns, classes)), np.zeros((rows, columns), np.int64)
    column, row = (places - first).T
    for down in range(grid.reach):
        for right in range(grid.reach):
            # every tile covers this cell of its own once: no index is twice in one sum
            total[row + down, column + right] += probabilities
            count[row + down, column + right] += 1
    with np.errstate(invalid="ignore"):
        values = total / np.where(count, count, np.nan)[..., None] if grid.reach > 1 else total
    values[count == 0] = np.nan
    return Heat(grid, scheme, (int(first[0]), int(first[1])), values)


def slide_score(values: NDArray[np.float64]) -> float:
    """A slide's score from a class's probabilities of its cells: the mean of the ten highest."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan")
    return float(np.sort(known)[-SCORED:].mean())
