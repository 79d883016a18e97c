"""From a decoded image to a patch: crop, resize, and check of the size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Fit:
    """How an image becomes a patch: the centre `crop` px, resized to `size` px, `side` px at the end.

    None skips a step; without a `side` any square is accepted. `before` is the side in px that the
    image itself must have, where the µm per px after the resize follow from it.
    """

    crop: int | None = None
    size: int | None = None
    side: int | None = None
    before: int | None = None

    def __call__(self, pixels: Pixels, name: Path | str) -> Pixels:
        """An image uint8 [H, W, 3] as a patch uint8 [S, S, 3]; HistoError, with `name`, if its size is wrong."""
        if self.before:
            skip = "{skip_bad} leaves out all that differ from the first"
            check_before(pixels, self.before, self.size, name, "the first patch", skip)
        pixels = resize(centre_crop(pixels, self.crop, name), self.size)
        check_size(pixels, self.side, name)
        return pixels


def check_before(
    pixels: Pixels, side: int, size: int | None, name: Path | str, first: Path | str, *more: str
) -> None:
    """Refuse an image that is not `side` px like `first`: resized to `size` px, no µm per px is both's."""
    height, width = pixels.shape[:2]
    if (height, width) != (side, side):
        raise HistoError(
            f"{name} is {width}x{height} px and {first} {side} px high: resized to {size} px, they do "
            "not have the same µm per px",
            "leave {mpp} out",
            "{crop} cuts the centre first",
            *more,
        )


def centre_crop(pixels: Pixels, crop: int | None, name: Path | str) -> Pixels:
    """The centre `crop` x `crop` px."""
    if crop is None:
        return pixels
    height, width = pixels.shape[:2]
    if crop > min(height, width):
        raise HistoError(f"{name} is {width}x{height} px, too small for a crop of {crop} px")
    top, left = (height - crop) // 2, (width - crop) // 2
    return pixels[top : top + crop, left : left + crop]


def resize(pixels: Pixels, size: int | None) -> Pixels:
    """To `size` x `size` px, by Pillow's antialiased bilinear filter.

    It is the filter of fastai's `Resize`, so that an exported fastai learner sees the same pixels.
    """
    if size is None or pixels.shape[:2] == (size, size):
        return pixels
    from PIL import Image

    squeezed = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(squeezed.resize((size, size), Image.Resampling.BILINEAR))


def check_size(pixels: Pixels, side: int | None, name: Path | str) -> int:
    """The side of a square patch; HistoError if it is not square or its side is not `side`.

    Patches cut at the edge of a slide are not padded: often they are of one class, and a model would
    learn the padding as it would learn the shape.
    """
    height, width = pixels.shape[:2]
    if height != width:
        raise HistoError(
            f"{name} is {width}x{height} px, not square",
            "{skip_bad} leaves such patches out",
            "{crop} cuts the centre, where most are so",
        )
    if side is not None and height != side:
        raise HistoError(
            f"{name} is {width}x{height} px where {side}x{side} px are expected",
            f"{{size}} {side} resizes all, {{crop}} cuts the centre",
            "{skip_bad} leaves such patches out",
            f"cut or resize them to {side}x{side} px first",
        )
    return int(height)
