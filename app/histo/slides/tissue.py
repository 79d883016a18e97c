"""Where a slide has tissue: saturation above Otsu's threshold on a small picture of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from histo.slides.reader import Slide

MPP = 8.0
"""µm per px of the mask."""
LOWEST, HIGHEST = 8, 15
"""Bounds of the threshold on saturation (0..255): Otsu's would be at home on a slide that is all
tissue, or all glass."""
SPECK_UM2, HOLE_UM2 = 500.0, 20_000.0
"""Smaller specks of tissue are dropped, smaller holes filled."""
LONGEST = 8192
"""Most px a side of a mask."""


@dataclass(frozen=True)
class Tissue:
    """A mask over the scanned area: bool [H, W], its pixels `pixel` level-0 px wide."""

    mask: NDArray[np.bool_]
    pixel: float

    def mm2(self, mpp: float) -> float:
        """Its area; `mpp` is that of level 0."""
        return float(self.mask.sum()) * (self.pixel * mpp / 1000) ** 2


def mask_mpp(slide: Slide) -> float:
    """µm per px of a slide's mask."""
    return max(MPP, slide.mpp, max(slide.scanned) * slide.mpp / LONGEST)


def find_tissue(slide: Slide) -> Tissue:
    """The tissue of a slide."""
    import cv2

    picture = slide.thumbnail(mask_mpp(slide))
    pixel = slide.scanned[0] / picture.shape[1]
    saturation = cv2.medianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 1], 3)
    otsu, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    mask = np.asarray(saturation > np.clip(otsu, LOWEST, HIGHEST))
    area = (pixel * slide.mpp) ** 2
    mask = without_small(mask, SPECK_UM2 / area)
    return Tissue(~without_small(~mask, HOLE_UM2 / area), pixel)


def drawn_tissue(slide: Slide, polygons: Iterable[Any]) -> Tissue:
    """The tissue that outlines enclose: shapely polygons in level-0 px."""
    from shapely import contains_xy, prepare, union_all

    mpp = mask_mpp(slide)
    width, height = (max(1, round(side * slide.mpp / mpp)) for side in slide.scanned)
    pixel = slide.scanned[0] / width
    left, top = slide.bounds
    union = union_all(list(polygons))
    prepare(union)
    middles = left + (np.arange(width) + 0.5) * pixel
    # a px is tissue where its middle is; OpenCV would draw the outline itself, half a px outside
    rows = [contains_xy(union, middles, top + (row + 0.5) * pixel) for row in range(height)]
    return Tissue(np.stack(rows), pixel)


def without_small(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    """The mask without its parts of fewer than `least` px."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = np.asarray(stats[:, cv2.CC_STAT_AREA]) >= least
    keep[0] = False
    return np.asarray(keep[labels])
