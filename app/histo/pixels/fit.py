"""A decoded patch cropped and resized to what the model takes, and its size checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError

Pixels = NDArray[np.uint8]


def fit_patch(pixels: Pixels, crop: int | None, size: int | None, path: Path) -> Pixels:
    """Centre-crop to `crop` px, then resize to `size` px, as asked; uint8 [S, S, 3].

    The resize is Pillow's antialiased bilinear filter, the one of fastai's `Resize`, so that an
    exported fastai learner sees the same pixels.
    """
    height, width = pixels.shape[:2]
    if crop is not None:
        if crop > min(height, width):
            raise HistoError(f"{path} is {width}x{height} px, too small for a crop of {crop} px")
        top, left = (height - crop) // 2, (width - crop) // 2
        pixels = pixels[top : top + crop, left : left + crop]
    if size is not None and pixels.shape[:2] != (size, size):
        from PIL import Image

        squeezed = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(squeezed.resize((size, size), Image.Resampling.BILINEAR))
    return pixels


def check_size(pixels: Pixels, side: int | None, path: Path) -> int:
    """The side of a square patch; HistoError where it is not square or not `side`."""
    height, width = pixels.shape[:2]
    if height != width:
        raise HistoError(f"{path} is {width}x{height} px, not square", "give {crop} or {size}")
    if side is not None and height != side:
        raise HistoError(
            f"{path} is {width}x{height} px where {side}x{side} px are expected",
            f"{{size}} {side} resizes all, {{crop}} cuts the centre; histo check lists the sizes",
        )
    return int(height)
