"""Tiles of a slide written as PNG files: read and encoded in threads, in little memory."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.slides.grid import Block, Grid, Places, blocks_of, in_blocks
from histo.slides.reader import Slide

AHEAD = 2
"""Blocks a thread that are read before the first is written: a bound on memory."""


def write_tiles(slide: Slide, grid: Grid, places: Places, folder: Path) -> None:
    """Write the tile of each place to `folder`/X_Y.png, by its level-0 corner."""
    threads = max(1, min(8, os.cpu_count() or 1))

    def write(block: Block) -> None:
        pixels = slide.read(*block.corner, *block.shape, scale=grid.scale)
        corners = grid.corners(block.places).tolist()
        for tile, (x, y) in zip(block.cut(pixels), corners, strict=True):
            write_png(folder / f"{x}_{y}.png", tile)

    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for block in blocks_of(grid, in_blocks(grid, places)):
                waiting.append(pool.submit(write, block))
                if len(waiting) > AHEAD * threads:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 RGB [H, W, 3]; the folder of a slide counts only when it is complete."""
    import cv2

    done, data = cv2.imencode(".png", pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise HistoError(f"{path} cannot be encoded as PNG")
    path.write_bytes(data.tobytes())
