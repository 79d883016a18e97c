"""Where the tiles of a map lie: a grid at the model's resolution, read in blocks of several tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.files.limits import Limit

TILES = Limit("HISTO_MAX_TILES", 20_000_000, "tiles")
BLOCK = 8
"""Tiles a side of a block that is read at once: fewer, larger reads decode each slide tile once."""
Places = NDArray[np.int32]
"""Column and row of tiles, int32 [N, 2]."""


@dataclass(frozen=True)
class Grid:
    """Square tiles of `side` px at the model's resolution, every `stride` px.

    Tile (0, 0) begins at `origin`, in px of the slide's level 0; `scale` level-0 px are one px of
    the model. The last column and row may reach over the slide's edge by less than half a tile.
    """

    origin: tuple[int, int]
    columns: int
    rows: int
    side: int
    stride: int
    scale: float

    @property
    def cell(self) -> float:
        """Side of a cell in level-0 px: the tiles' step, and a pixel of the heat map."""
        return self.stride * self.scale

    @property
    def width(self) -> int:
        """Side of a tile in level-0 px."""
        return round(self.side * self.scale)

    @property
    def reach(self) -> int:
        """How many cells a tile covers along a side."""
        return self.side // self.stride

    def corners(self, places: Places) -> NDArray[np.int64]:
        """The top left corners of tiles in level-0 px, int64 [N, 2]."""
        found = np.rint(places * self.cell).astype(np.int64) + np.array(self.origin)
        return np.asarray(found, np.int64)


def make_grid(
    end: tuple[int, int],
    origin: tuple[int, int],
    scale: float,
    side: int,
    stride: int | None = None,
) -> Grid:
    """The grid of a slide whose scanned area lies between the level-0 px `origin` and `end`.

    HistoError where `stride` does not divide `side`, or there are too many tiles or none.
    """
    stride = check_stride(side, stride)
    columns, rows = (
        int(((whole - start) / scale - side / 2) // stride) + 1
        for whole, start in zip(end, origin, strict=True)
    )
    if columns < 1 or rows < 1:
        raise HistoError(
            f"{end[0] - origin[0]} x {end[1] - origin[1]} px at level 0 are less than a tile of {round(side * scale)} px"
        )
    TILES.check(columns * rows, f"{columns:,} x {rows:,} places")
    return Grid(origin, columns, rows, side, stride, scale)


def check_stride(side: int, stride: int | None) -> int:
    """The step of tiles of `side` px, their side by default; HistoError where it does not divide it."""
    if stride and side % stride:
        raise HistoError(
            f"a stride of {stride} px does not divide the tiles' side of {side} px",
            f"give {{stride}} {side // 2}",
        )
    return stride or side


@dataclass(frozen=True)
class Block:
    """Neighbouring tiles that are read at once: a rectangle of the grid, and tiles within it."""

    grid: Grid
    places: Places
    """of the tiles in it"""

    @property
    def first(self) -> NDArray[np.int32]:
        """Column and row of the rectangle's first tile."""
        return np.asarray(self.places.min(0))

    @property
    def corner(self) -> tuple[int, int]:
        """Its top left corner in level-0 px."""
        x, y = self.grid.corners(self.first[None])[0].tolist()
        return x, y

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height in px of the model."""
        width, height = (self.places.max(0) - self.first) * self.grid.stride + self.grid.side
        return int(width), int(height)

    def cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Its tiles, uint8 [N, S, S, 3], from the rectangle's pixels."""
        side = self.grid.side
        offsets = ((self.places - self.first) * self.grid.stride).tolist()
        return np.stack([pixels[y : y + side, x : x + side] for x, y in offsets])


def in_blocks(grid: Grid, places: Places) -> Places:
    """The tiles in the order in which they are read: block by block, row by row."""
    size = max(1, BLOCK * grid.reach)
    column, row = places[:, 0], places[:, 1]
    return places[np.lexsort((column, row, column // size, row // size))]


def blocks_of(grid: Grid, places: Places) -> Iterator[Block]:
    """The blocks of tiles that `in_blocks` sorted."""
    size = max(1, BLOCK * grid.reach)
    if not len(places):
        return
    own = places // size
    edges = np.flatnonzero((own[1:] != own[:-1]).any(1)) + 1
    for part in np.split(places, edges):
        yield Block(grid, part)
