"""Label masks: an image over the whole slide whose values are classes, 0 where nothing is labelled."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.files.limits import IMAGE_PIXELS
from histo.slides.reader import LEAST_MPP, MOST_MPP
from histo.slides.slide_files import quiet_open

EXACT = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
"""Compressions of a TIFF that keep values, and unpack to no more than its tiles hold."""
PADDED = 1024
"""Most px by which a mask reaches over its slide: a tile of it."""
MULTIPLE = 1e-3
"""The most by which a multiple of the slide's µm per px is off."""
ROUNDED = 1.5
"""Px that rounding costs a mask."""
ASPECT = 0.02
"""The most by which a mask's sides may disagree about how many level-0 px its pixels are."""


@dataclass(frozen=True)
class LabelMask:
    """Values uint8 [H, W] over the whole slide; a pixel is `pixel` level-0 px wide and high (x, y)."""

    values: NDArray[np.uint8]
    pixel: tuple[float, float]

    @property
    def present(self) -> list[int]:
        """The values there are, without 0."""
        return [int(v) for v in np.unique(self.values) if v]

    def cover(self, value: int, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of each box that has this value; boxes float64 [N, 4] x0, y0, x1, y1 in level-0 px."""
        height, width = self.values.shape
        px, py = self.pixel
        x0, x1 = _edges(boxes[:, 0], boxes[:, 2], px, width)
        y0, y1 = _edges(boxes[:, 1], boxes[:, 3], py, height)
        top, low = (int(y0.min()), int(y1.max())) if len(boxes) else (0, 0)
        found = self.values[top:low] == value  # of the rows that the boxes cover
        sums = np.zeros((low - top + 1, width + 1), np.int32 if found.size < 2**31 else np.int64)
        np.cumsum(found, 0, sums.dtype, sums[1:, 1:])
        np.cumsum(sums[1:, 1:], 1, sums.dtype, sums[1:, 1:])
        inside = sums[y1 - top, x1] - sums[y0 - top, x1] - sums[y1 - top, x0] + sums[y0 - top, x0]
        return np.asarray(inside / np.maximum(1, (x1 - x0) * (y1 - y0)), np.float64)


def _edges(
    low: NDArray[np.float64], high: NDArray[np.float64], pixel: float, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first px of a box along an axis and the one after its last: those whose middle is inside."""
    first = np.clip(np.rint(low / pixel).astype(np.int64), 0, most)
    last = np.clip(np.rint(high / pixel).astype(np.int64), 0, most)
    return first, np.maximum(first, last)


def read_mask(path: Path, size: tuple[int, int], mpp: float) -> LabelMask:
    """A TIFF or PNG over a slide of `size` level-0 px of `mpp` µm.

    Of a pyramid it is the finest level within bounds. Raises HistoError.
    """
    values = read_values(path)
    if pixel := padded_pixel(own_mpp(path, values.shape[1]), mpp, size, values.shape[::-1]):
        return LabelMask(values, pixel)
    px, py = size[0] / values.shape[1], size[1] / values.shape[0]
    if abs(px / py - 1) > ASPECT:
        raise HistoError(
            f"{path} has {values.shape[1]} x {values.shape[0]} px, which is not the form of the slide "
            f"({size[0]} x {size[1]} px)"
        )
    return LabelMask(values, (px, py))


def padded_pixel(
    own: float | None, mpp: float, size: tuple[int, int], shape: tuple[int, ...]
) -> tuple[float, float] | None:
    """The px of a mask of `shape` (width, height) that reaches over the slide's right or lower edge.

    So do masks that are padded to whole tiles: stretched over the slide, their values would be moved.
    Only the mask's `own` µm per px tells; None where it says none, or where the mask has the slide's
    form and its µm per px are no multiple of the slide's: rounded, they would move the values.
    """
    if own is None or not LEAST_MPP <= own <= MOST_MPP:
        return None
    step = own / mpp
    over = [side - whole / step for side, whole in zip(shape, size, strict=True)]  # in its own px
    within = all(
        -ROUNDED <= o <= min(PADDED, side / 4) for o, side in zip(over, shape, strict=True)
    )
    apart = abs(over[0] / shape[0] - over[1] / shape[1]) > ROUNDED / min(shape)
    multiple = abs(step - round(step)) < MULTIPLE * step
    return (step, step) if within and max(over) > ROUNDED and (apart or multiple) else None


def own_mpp(path: Path, width: int) -> float | None:
    """µm per px that a mask says of itself, read at a level of `width` px; None where it says none."""
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        with (
            suppress(Exception),  # tifffile raises anything for tags that make no sense
            tifffile.TiffFile(path, _multifile=False) as file,
        ):
            page = file.series[0].keyframe
            density = page.get_resolution("micrometer")[0]
            return page.imagewidth / (width * density) if density > 0 else None
        return None
    with quiet_open(path) as image:
        dots = image.info.get("dpi", (0, 0))[0]
    return 25_400 / float(dots) if dots else None


def read_values(path: Path) -> NDArray[np.uint8]:
    """The values of a mask, uint8 [H, W]. Raises HistoError."""
    values = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _read_png(path)
    if values.ndim == 3 and (values.shape[2] == 1 or (values == values[..., :1]).all()):
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "ub" or (values.size and values.max() > 255):
        raise HistoError(f"{path} is not a label mask: one channel of whole numbers from 0 to 255")
    return np.asarray(values, np.uint8)


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as file:  # OME-TIFF may name other files
            levels = [s for s in file.series[0].levels if math.prod(s.shape) <= IMAGE_PIXELS.value]
            if not levels:
                IMAGE_PIXELS.check(math.prod(file.series[0].shape), str(path))
            _check_page(levels[0].keyframe, path)
            return np.asarray(levels[0].asarray())
    except HistoError:
        raise
    except Exception as error:  # tifffile and its codecs raise anything
        raise HistoError(f"{path} cannot be read as a TIFF ({type(error).__name__})") from None


def _check_page(page: Any, path: Path) -> None:
    """HistoError for a TIFF whose tiles unpack to more than its size says, or to other values."""
    IMAGE_PIXELS.check(math.prod(page.chunks), f"{path}: each tile")
    if int(page.compression) not in EXACT:
        raise HistoError(
            f"{path} is a mask compressed by {page.compression.name}, which may change its values: "
            "save it with LZW or Deflate"
        )


def _read_png(path: Path) -> NDArray[Any]:
    from PIL import Image

    try:
        with quiet_open(path) as image:
            IMAGE_PIXELS.check(image.width * image.height, str(path))
            return np.asarray(image)  # a palette's indices are the values
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise HistoError(f"{path} cannot be read as an image") from None
