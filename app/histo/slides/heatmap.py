"""heatmap.tiff: a pyramidal OME-TIFF of a pixel a cell, which opens in register with its slide."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from numpy.typing import NDArray

from histo.files.writing import written
from histo.slides.heat import Heat

TILE = 256
NONE = 0
"""The value where no tile is; a probability p is 1 + 254 p."""


def levels_of(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The image [K, Y, X] and its halves, until one fits into a tile: at least one half."""
    found = [image]
    while max(found[-1].shape[1:]) > TILE or (len(found) < 2 and max(found[-1].shape[1:]) > 1):
        found.append(halved(found[-1]))
    return found


def halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Half the size, each pixel the mean of the known ones of four; exact at the edges."""
    classes, height, width = image.shape
    padded = np.zeros((classes, height + height % 2, width + width % 2), np.float64)
    padded[:, :height, :width] = image
    fours = padded.reshape(classes, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
    count = (fours > NONE).sum((2, 4))
    mean = fours.sum((2, 4)) / np.maximum(count, 1)
    return np.asarray(np.rint(mean), np.uint8)


def whole_image(heat: Heat) -> NDArray[np.uint8]:
    """The shown classes over the slide's whole grid, uint8 [K, rows, columns]."""
    grid, shown = heat.grid, heat.scheme.shown
    reach = grid.reach - 1
    image = np.zeros((len(shown), grid.rows + reach, grid.columns + reach), np.uint8)
    x, y = heat.first
    rows, columns = heat.known.shape
    for place, code in enumerate(shown):
        values = np.where(heat.known, 1 + 254 * np.nan_to_num(heat.of(code)), NONE)
        area = image[place, y : y + rows, x : x + columns]
        area[:] = np.rint(values)[: area.shape[0], : area.shape[1]].astype(np.uint8)
    return image


def write_heatmap(path: Path, heat: Heat, mpp: float) -> None:
    """Write the heat map: a channel a shown class, µm per px, and the place of its first pixel.

    It begins at the slide's bounds. `mpp` is that of the slide's level 0.
    """
    from tifffile import TiffWriter

    grid = heat.grid
    levels = levels_of(whole_image(heat))
    pixel = grid.cell * mpp
    common: dict[str, Any] = {
        "photometric": "minisblack",
        "tile": (TILE, TILE),
        "compression": "zlib",
        "resolutionunit": "CENTIMETER",
        "software": "histo",
    }
    made = io.BytesIO()  # a pixel a tile: small
    with TiffWriter(made, ome=True) as tiff:
        tiff.write(
            levels[0],
            subifds=len(levels) - 1,
            resolution=(1e4 / pixel, 1e4 / pixel),
            metadata={**ome_of(heat, mpp), "UUID": uuid_of(levels[0])},
            **common,
        )
        for number, level in enumerate(levels[1:], 1):
            density = 1e4 / (pixel * 2**number)
            tiff.write(level, subfiletype=1, resolution=(density, density), **common)
    with written(path) as file:
        file.write(made.getbuffer())


def uuid_of(image: NDArray[np.uint8]) -> str:
    """An UUID of what the image holds: the same map is the same bytes."""
    return str(uuid5(NAMESPACE_OID, hashlib.sha256(image.tobytes()).hexdigest()))


def ome_of(heat: Heat, mpp: float) -> dict[str, Any]:
    """The OME metadata: size and place in µm, the classes as names of channels."""
    grid, names = heat.grid, [f"p {name}" for name in heat.scheme.named]
    pixel = grid.cell * mpp
    left, top = (start * mpp for start in grid.origin)
    count = len(names)
    return {
        "axes": "CYX",
        "PhysicalSizeX": pixel,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": pixel,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": names},
        "Plane": {
            "PositionX": [left] * count,
            "PositionXUnit": ["µm"] * count,
            "PositionY": [top] * count,
            "PositionYUnit": ["µm"] * count,
        },
    }


def probability_of(value: int) -> float:
    """The probability that a pixel of the heat map stands for; nan where no tile is."""
    return math.nan if value == NONE else (value - 1) / 254
