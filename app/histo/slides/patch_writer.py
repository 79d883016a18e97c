"""Tiles of a slide written as PNGs: read and encoded in threads, in little memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.distributed.prefetch import prefetch
from histo.errors import HistoError
from histo.files.packed import packing
from histo.files.writing import write_bytes
from histo.slides.grid import Block, Grid, Places, blocks_of, in_blocks
from histo.slides.reader import Slide

AHEAD = 2
"""Blocks a thread that are read before the first is written: a bound on memory."""


def write_tiles(slide: Slide, grid: Grid, places: Places, folder: Path, files: bool = True) -> None:
    """Write the tile of each place to `folder`/X_Y.png, by its level-0 corner; without `files`, to a ZIP.

    The folder of a slide counts only when it is complete.
    """
    if files:
        for name, data in encoded_tiles(slide, grid, places):
            write_bytes(folder / name, data)
        return
    with packing(folder) as pack:
        for name, data in encoded_tiles(slide, grid, places):
            pack.add(name, data)


def encoded_tiles(slide: Slide, grid: Grid, places: Places) -> Iterator[tuple[str, bytes]]:
    """The name and the PNG of each tile, block by block."""
    threads = max(1, min(8, os.cpu_count() or 1))

    def encoded(block: Block) -> list[tuple[str, bytes]]:
        pixels = slide.read(*block.corner, *block.shape, scale=grid.scale)
        corners = grid.corners(block.places).tolist()
        tiles = zip(block.cut(pixels), corners, strict=True)
        return [(f"{x}_{y}.png", png_of(tile)) for tile, (x, y) in tiles]

    blocks = blocks_of(grid, in_blocks(grid, places))
    for part in prefetch(encoded, blocks, AHEAD * threads, threads):
        yield from part


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 RGB [H, W, 3] as a PNG."""
    import cv2

    done, data = cv2.imencode(".png", pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise HistoError(f"a patch of {pixels.shape[1]} x {pixels.shape[0]} px cannot be encoded")
    return data.tobytes()
