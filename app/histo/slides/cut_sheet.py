"""The picture of what was cut from where, and the outlines of tissue to correct."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from histo.files.writing import write_json, written
from histo.slides.colours import CLASSES
from histo.slides.grid import Grid
from histo.slides.outlines import area_of_mask, parts_of
from histo.slides.overlay import font
from histo.slides.reader import Slide
from histo.slides.tile_labels import Labels
from histo.slides.tissue import Tissue

LONGEST = 1600
"""Longest side of the pictures in px."""
TISSUE_COLOUR = (0, 158, 115)


def picture_of(slide: Slide) -> NDArray[np.uint8]:
    """The scanned area of a slide, its longest side `LONGEST` px at most."""
    return slide.thumbnail(slide.mpp * max(1.0, max(slide.scanned) / LONGEST))


def write_sheet(
    path: Path,
    picture: NDArray[np.uint8],
    slide: Slide,
    grid: Grid,
    tiles: Labels,
    names: Sequence[str],
) -> None:
    """Each tile's square in the colour of its class, with a legend, over the slide."""
    import cv2

    drawn = picture.copy()
    step = picture.shape[1] / slide.scanned[0]
    corners = grid.corners(tiles.places) - np.array(slide.bounds)
    for (x, y), name in zip(corners.tolist(), tiles.names, strict=True):
        colour = CLASSES[names.index(str(name)) % len(CLASSES)]
        # a px inside, so that neighbours of two classes do not draw over each other
        first = round(x * step) + 1, round(y * step) + 1
        last = round((x + grid.width) * step) - 2, round((y + grid.width) * step) - 2
        cv2.rectangle(drawn, first, last, colour, 1)
    write_picture(path, np.concatenate([legend(tiles, names, drawn.shape[1]), drawn]))


def legend(tiles: Labels, names: Sequence[str], width: int) -> NDArray[np.uint8]:
    """A strip with a line for each class: its colour, its name and its number of tiles."""
    strip = Image.new("RGB", (width, 8 + 22 * len(names)), "white")
    draw = ImageDraw.Draw(strip)
    for number, name in enumerate(names):
        y = 8 + 22 * number
        draw.rectangle((8, y, 22, y + 14), fill=CLASSES[number % len(CLASSES)])
        text = f"{name or 'no label'}: {int((tiles.names == name).sum()):,}"
        draw.text((30, y - 2), text, fill="black", font=font(15))
    return np.asarray(strip)


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 RGB as the suffix says, whole or not at all."""
    import cv2

    _, data = cv2.imencode(path.suffix, pixels[..., ::-1])
    with written(path) as file:
        file.write(data.tobytes())


def write_tissue(folder: Path, picture: NDArray[np.uint8], slide: Slide, tissue: Tissue) -> None:
    """tissue.jpg, its outline over the slide, and tissue.geojson, which QuPath opens and edits."""
    import cv2

    area = area_of_mask(tissue.mask, (tissue.pixel, tissue.pixel))
    rings = [ring for part in parts_of(area) for ring in (part.exterior, *part.interiors)]
    drawn = picture.copy()
    step = picture.shape[1] / slide.scanned[0]
    points = [np.rint(np.asarray(ring.coords) * step).astype(np.int32) for ring in rings]
    cv2.polylines(drawn, points, True, TISSUE_COLOUR, 2)
    write_picture(folder / "tissue.jpg", drawn)
    write_json(folder / "tissue.geojson", geojson_of(area))


def geojson_of(area: Any) -> dict[str, Any]:
    """A FeatureCollection of an annotation a piece of tissue; coordinates begin at the bounds."""
    from shapely.geometry import mapping

    kind = {"name": "Tissue", "color": list(TISSUE_COLOUR)}
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": mapping(part),
                "properties": {"objectType": "annotation", "classification": kind},
            }
            for part in parts_of(area)
        ],
    }
