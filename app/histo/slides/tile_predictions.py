"""The model's probabilities for the tiles of a slide: read ahead in threads, computed in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histo.distributed import ranks
from histo.distributed.prefetch import prefetch
from histo.screen import Advance
from histo.slides.grid import Block, Grid, Places, blocks_of
from histo.slides.journal import Journal

if TYPE_CHECKING:
    from histo.slides.reader import Slide

AHEAD = 6
"""Blocks read before they are asked for: some hundred tiles, 10 MB at 96 px."""
Tiles = NDArray[np.uint8]
Predict = Callable[[Tiles], NDArray[np.float64]]
"""From tiles uint8 [N, S, S, 3] to probabilities float64 [N, C]."""


def predict_tiles(
    slide: Slide,
    grid: Grid,
    places: Places,
    predict: Predict,
    journal: Journal,
    batch_size: int,
    advance: Advance,
) -> None:
    """Compute the rows that the journal lacks: those of `places` in their order.

    Batches are the same whether or not an earlier process did some of them.
    """

    def read(item: tuple[Block, int]) -> Tiles:
        block, done = item
        return block.cut(read_block(slide, block))[done:]

    with journal.open():
        tiles = prefetch(read, missing(grid, places, journal.rows), AHEAD, ranks.cores())
        for batch in in_batches(tiles, batch_size):
            journal.add(predict(batch))
            advance(len(batch))


def read_block(slide: Slide, block: Block) -> Tiles:
    """The pixels of a block at the model's resolution, uint8 [H, W, 3]."""
    x, y = block.corner
    width, height = block.shape
    return slide.read(x, y, width, height, scale=block.grid.scale)


def read_tiles(slide: Slide, grid: Grid, places: Places) -> Iterator[Tiles]:
    """Single tiles, uint8 [S, S, 3], each read for itself, in threads."""

    def read(place: NDArray[np.int32]) -> Tiles:
        return read_block(slide, Block(grid, place[None]))

    return prefetch(read, places, AHEAD, ranks.cores())


def missing(grid: Grid, places: Places, done: int) -> Iterator[tuple[Block, int]]:
    """The blocks that hold tiles after the first `done`, and how many of each are done."""
    at = 0
    for block in blocks_of(grid, places):
        end = at + len(block.places)
        if end > done:
            yield block, max(0, done - at)
        at = end


def in_batches(parts: Iterable[Tiles], size: int) -> Iterator[Tiles]:
    """The tiles of all parts in batches of `size`; the last may be smaller."""
    waiting: list[Tiles] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += len(part)
        if count < size:
            continue
        whole = np.concatenate(waiting) if len(waiting) > 1 else part
        full = count - count % size
        for start in range(0, full, size):
            yield whole[start : start + size]
        waiting, count = [whole[full:]], count - full
    if count:
        yield np.concatenate(waiting)
