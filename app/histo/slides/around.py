"""A patch in its slide: what is around it, with the patch outlined."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histo.slides.deepzoom import DeepZoom
from histo.slides.reader import Pixels

TIMES = 5
"""Sides of the patch that the picture is wide."""
SIDE = 480
"""Of the picture in px."""
APART = 24.0
"""Mean difference, of 255, from which on the patch is not from there: the slide is another one."""


def around(
    zoom: DeepZoom, path: Path, box: tuple[float, float, float, float], patch: Pixels
) -> Pixels | None:
    """The region of a slide around a patch at `box` (level-0 px), uint8 [SIDE, SIDE, 3].

    None where the slide looks otherwise than the patch there. White beyond the slide.
    """
    import cv2

    x, y, width, height = box
    side = TIMES * max(width, height)
    scale = side / SIDE
    left, top = round(x + width / 2 - side / 2), round(y + height / 2 - side / 2)
    picture = zoom.region(path, left, top, SIDE, scale)
    ends = [round(v / scale) for v in (x - left, y - top, x + width - left, y + height - top)]
    low_x, low_y, high_x, high_y = ends
    if difference(picture[low_y:high_y, low_x:high_x], patch) > APART:
        return None
    for grown, colour in ((3, (255, 255, 255)), (1, (0, 0, 0))):
        corners = (low_x - grown, low_y - grown), (high_x + grown - 1, high_y + grown - 1)
        cv2.rectangle(picture, *corners, colour, 2)
    return picture


def difference(seen: Pixels, patch: Pixels) -> float:
    """Mean absolute difference of two pictures of one thing, at the size of the smaller."""
    import cv2

    side = min(*seen.shape[:2], *patch.shape[:2])
    one, other = (
        cv2.resize(each, (side, side), interpolation=cv2.INTER_AREA) for each in (seen, patch)
    )
    return float(np.abs(one.astype(np.float32) - other.astype(np.float32)).mean())
