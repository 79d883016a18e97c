"""A slide's map as a viewer shows it: its grid of probabilities, and its regions."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.files.limits import MB, Limit, check_regular, open_at_once, read_bytes
from histo.slides.map_geojson import PACKED, PLAIN
from histo.slides.maps_folder import MapsFolder
from histo.slides.summary import SLIDE_JSON, SlideRow, read_row

HEATMAP_BYTES = Limit("HISTO_MAX_HEATMAP_BYTES", 64 * MB, "bytes")
CELLS = 8_000_000
"""Most cells and classes that are sent to a page; of a larger map a coarser level."""
REGIONS, LINE_BYTES = 500, 8 * MB
"""Most regions that are listed, and of the longest line that is read."""


@dataclass(frozen=True)
class RegionBox:
    """A region: its class, its area, and the box around it in level-0 px."""

    name: str
    code: int
    mm2: float
    highest: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class MapView:
    """A map: `values` uint8 [K, R, C], 0 where no tile is, else 1 + 254 p.

    Cell (0, 0) begins at the slide's bounds; a cell is `cell` px of level 0.
    """

    row: SlideRow
    classes: list[str]
    """that the map shows: the positive one of two, else all"""
    threshold: float | None
    """of two classes"""
    cell: float
    values: NDArray[np.uint8]
    regions: list[RegionBox]


def read_map(folder: Path, slide: str, origin: tuple[float, float]) -> MapView:
    """The map of a slide in a folder of `histo map`; `origin` is where the slide's bounds begin.

    HistoError where it is not whole, damaged or too large.
    """
    maps = MapsFolder.read(folder)
    if slide not in maps.slides:
        raise HistoError("there is no map of that slide")
    own = maps.of(slide)
    _, row = read_row(own / SLIDE_JSON)
    try:
        stride, mpp = float(maps.settings["stride"]), float(maps.settings["mpp"])
        threshold = float(maps.settings["threshold"]) if len(maps.classes) == 1 else None
        cell = stride * mpp / row.mpp
        good = 0 < cell < 1e6
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        good = False
    if not good:
        raise HistoError("the map is damaged", "map the slide again")
    values, step = read_heatmap(own / "heatmap.tiff", len(maps.classes))
    regions = list(read_regions(own, list(maps.classes), origin))
    regions.sort(key=lambda region: -region.mm2)
    return MapView(row, list(maps.classes), threshold, cell * step, values, regions)


def read_heatmap(path: Path, classes: int) -> tuple[NDArray[np.uint8], int]:
    """The finest level that is not too large, and how many cells of the map one of its px is wide."""
    from tifffile import TiffFile

    data = read_bytes(path, HEATMAP_BYTES)
    try:
        with TiffFile(io.BytesIO(data)) as tiff:
            for number, level in enumerate(tiff.series[0].levels):
                shape = level.shape if len(level.shape) == 3 else (1, *level.shape)
                if len(shape) != 3 or shape[0] != classes or level.dtype != np.uint8:
                    break
                if int(np.prod(shape, dtype=np.int64)) <= CELLS:
                    return np.asarray(level.asarray(), np.uint8).reshape(shape), 2**number
    except Exception as error:  # whatever tifffile says of a stranger's file
        raise HistoError(f"{path.name} is damaged ({type(error).__name__})") from None
    raise HistoError(f"{path.name} is not a map of these classes, or too large to show")


def read_regions(
    folder: Path, classes: list[str], origin: tuple[float, float]
) -> Iterator[RegionBox]:
    """The largest regions in the map's GeoJSON, which has them before its tiles, a line each."""
    with opened_lines(folder) as file:
        found = 0
        while found < REGIONS:
            line = file.readline(LINE_BYTES + 1)
            if not line or len(line) > LINE_BYTES:
                return
            region = region_of(line, classes, origin)
            if region == "tile":
                return
            if isinstance(region, RegionBox):
                found += 1
                yield region


def opened_lines(folder: Path) -> IO[bytes]:
    """The GeoJSON of a map, unpacked; HistoError where there is none."""
    for name in (PLAIN, PACKED):
        path = folder / name
        if not path.is_file():
            continue
        file = open(path, "rb", opener=open_at_once)  # noqa: SIM115  (the caller closes it)
        check_regular(os.fstat(file.fileno()), path)
        return gzip.GzipFile(fileobj=file) if name == PACKED else file  # type: ignore[return-value]
    raise HistoError("the map has no regions: map the slide again")


def region_of(
    line: bytes, classes: list[str], origin: tuple[float, float]
) -> RegionBox | str | None:
    """The region of a line; "tile" where the tiles begin, None for whatever is neither."""
    try:
        found: Any = json.loads(line.strip().rstrip(b","))
        facts = found["properties"]
        if facts["objectType"] == "tile":
            return "tile"
        name = str(facts["classification"]["name"])
        measured = facts["measurements"]
        ring = np.array(found["geometry"]["coordinates"][0], np.float64) + np.array(origin)
        (left, top), (right, low) = ring.min(0).tolist(), ring.max(0).tolist()
        code = classes.index(name)
        mm2, highest = float(measured["Area mm^2"]), float(measured[f"p {name} max"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError):
        return None
    box = (left, top, right - left, low - top)
    good = np.isfinite([*box, mm2, highest]).all()
    return RegionBox(str(facts.get("name", name))[:200], code, mm2, highest, box) if good else None
