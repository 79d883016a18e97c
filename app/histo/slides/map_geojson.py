"""map.geojson: regions and tiles for QuPath, written one after the other, whatever their number."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from histo.files.writing import written
from histo.slides.colours import class_colour
from histo.slides.grid import Grid, Places
from histo.slides.heat import Heat, Scheme
from histo.slides.regions import Region, regions_of

TILES_AT_ONCE = 10_000
LARGE = 50_000
"""With more tiles than this the file is compressed, which QuPath opens too."""
PLAIN, PACKED = "map.geojson", "map.geojson.gz"


def write_geojson(
    folder: Path,
    heat: Heat,
    places: Places,
    probabilities: NDArray[np.float64],
    called: NDArray[np.int64],
    mpp: float,
) -> Path:
    """Write regions as annotations and tiles as tile objects; returns the path.

    QuPath's coordinates begin at the slide's bounds, where the grid begins too. `mpp` is that of
    level 0.
    """
    features = chain(
        region_features(heat, mpp),
        tile_features(heat.grid, heat.scheme, places, probabilities, called),
    )
    path = folder / (PACKED if len(places) > LARGE else PLAIN)
    with written(path) as file:
        if path.name == PACKED:
            # without a time and a name, so that the same map is the same bytes
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                write_features(packed, features)
        else:
            write_features(file, features)
    return path


def write_features(file: IO[bytes] | gzip.GzipFile, features: Iterable[dict[str, Any]]) -> None:
    """A FeatureCollection, a line a feature."""
    file.write(b'{"type": "FeatureCollection", "features": [')
    for number, feature in enumerate(features):
        text = json.dumps(feature, ensure_ascii=False, separators=(",", ":"))
        file.write((",\n" if number else "\n").encode() + text.encode())
    file.write(b"\n]}\n")


def region_features(heat: Heat, mpp: float) -> Iterator[dict[str, Any]]:
    """The regions of each shown class, the largest first, as locked annotations."""
    for code in heat.scheme.shown:
        for number, region in enumerate(regions_of(heat, code), 1):
            yield region_feature(heat, region, number, mpp)


def region_feature(heat: Heat, region: Region, number: int, mpp: float) -> dict[str, Any]:
    """A region: its class with a colour, which QuPath insists on, and its area in mm²."""
    scheme, (left, top) = heat.scheme, heat.grid.origin
    name = scheme.vocab[region.code]
    rings = [[[round(x - left, 2), round(y - top, 2)] for x, y in ring] for ring in region.rings]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "name": f"{name} {number}",
            "classification": classification(scheme, region.code),
            "isLocked": True,
            "measurements": {
                "Area mm^2": round(area_mm2(heat.grid, region.cells, mpp), 6),
                f"p {name} max": round(region.highest, 6),
                f"p {name} mean": round(region.mean, 6),
            },
        },
    }


def tile_features(
    grid: Grid,
    scheme: Scheme,
    places: Places,
    probabilities: NDArray[np.float64],
    called: NDArray[np.int64],
) -> Iterator[dict[str, Any]]:
    """The tiles, with the probability of each class as measurements."""
    names = [f"p {name}" for name in scheme.vocab]
    for start in range(0, len(places), TILES_AT_ONCE):
        part = slice(start, start + TILES_AT_ONCE)
        corners = grid.corners(places[part]) - np.array(grid.origin)
        rows = zip(
            corners.tolist(), probabilities[part].tolist(), called[part].tolist(), strict=True
        )
        yield from (tile_feature(grid, scheme, names, *row) for row in rows)


def tile_feature(
    grid: Grid,
    scheme: Scheme,
    names: Sequence[str],
    corner: Sequence[int],
    values: Sequence[float],
    code: int,
) -> dict[str, Any]:
    """A tile: its square, its class, its probabilities under `names`."""
    x, y = corner
    right, low = x + grid.width, y + grid.width
    ring = [[x, y], [right, y], [right, low], [x, low], [x, y]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "tile",
            "classification": classification(scheme, code),
            "measurements": dict(zip(names, (round(value, 6) for value in values), strict=True)),
        },
    }


def classification(scheme: Scheme, code: int) -> dict[str, Any]:
    """A class as QuPath names it: with its colour."""
    return {
        "name": scheme.vocab[code],
        "color": list(class_colour(len(scheme.vocab), code, scheme.positive)),
    }


def area_mm2(grid: Grid, cells: int, mpp: float) -> float:
    """The area of so many cells in mm²; `mpp` is that of level 0."""
    return cells * (grid.cell * mpp / 1000) ** 2
