"""Small slides made for tests: in a file, or in memory with the reader's interface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

TISSUE = (200, 120, 190)
GLASS = 243


def write_slide(path: Path, pixels: np.ndarray, mpp: float | None, steps: tuple = (2.0,)) -> Path:
    """Write uint8 [H, W, 3] as a tiled, pyramidal TIFF; `steps` are down-samples of its levels."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for step in (1.0, *steps):
            height, width = (round(side / step) for side in pixels.shape[:2])
            level = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
            known = {} if mpp is None else {"resolution": (1e4 / mpp / step,) * 2}
            unit = {} if mpp is None else {"resolutionunit": "CENTIMETER"}
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="lzw",
                subfiletype=int(step > 1),
                metadata=None,
                **known,
                **unit,
            )
    return path


def tissue_slide(width: int, height: int, margin: int = 96) -> np.ndarray:
    """Plain tissue with a margin of glass, uint8 [H, W, 3]."""
    pixels = np.full((height, width, 3), GLASS, np.uint8)
    pixels[margin:-margin, margin:-margin] = TISSUE
    return pixels


@dataclass
class MemorySlide:
    """A slide in memory, whose tissue may begin at `bounds`."""

    pixels: np.ndarray
    mpp: float
    bounds: tuple[int, int] = (0, 0)
    path: Path = Path("memory.mrxs")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def read(self, x: int, y: int, width: int, height: int, *, scale: float) -> np.ndarray:
        """As the reader's."""
        shape = round(height * scale), round(width * scale)
        region = np.full((*shape, 3), 255, np.uint8)
        part = self.pixels[y : y + shape[0], x : x + shape[1]]
        region[: part.shape[0], : part.shape[1]] = part
        return cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)

    def thumbnail(self, mpp: float) -> np.ndarray:
        """As the reader's."""
        step = mpp / self.mpp
        width, height = (max(1, round(side / step)) for side in self.size)
        return cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA)
