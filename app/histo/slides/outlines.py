"""Outlines of areas on a slide: bounded, with invalid rings mended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.files.limits import MB, NAME, Limit, is_name

ANNOTATION_BYTES = Limit("HISTO_MAX_ANNOTATION_BYTES", 128 * MB, "bytes")
MANY = 10_000
"""Outlines of more points are simplified, by half a px of level 0 at most."""
FARTHEST = 1e8
"""No slide has so many px a side."""
CROSSINGS = 100_000
"""An outline that crosses itself about so often is refused: mending it would take gigabytes."""
SAMPLE = 1000
"""Segments of an outline that are tested for crossings."""
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Outline:
    """An area: the name of its class, a shapely polygon, and whether its rings had to be mended."""

    name: str
    polygon: Any
    mended: bool = False


def make_outline(name: str, polygon: Any, path: Path) -> Outline | None:
    """An outline of a valid polygon; None where it has no area, ValueError where it is out of range.

    HistoError where its name can be that of no class.
    """
    from shapely import get_num_coordinates, make_valid

    if name and not is_name(name):
        raise HistoError(
            f"{path}: {name[:40]!r} can be no class: it has line ends, characters that change the "
            f"direction of text, or more than {NAME} characters"
        )
    if not all(math.isfinite(v) and abs(v) < FARTHEST for v in polygon.bounds):
        raise ValueError("no slide is so large")
    if get_num_coordinates(polygon) > MANY:
        check_crossings(polygon, path)
        polygon = polygon.simplify(0.5, preserve_topology=False)
    mended = not polygon.is_valid
    if mended:
        check_crossings(polygon, path)
        polygon = make_valid(polygon)
    return Outline(name, polygon, mended) if polygon.area else None


def area_of_mask(mask: NDArray[np.bool_], pixel: tuple[float, float]) -> Any:
    """The shapely area that the true px of a mask cover: each is `pixel` (x, y) wide and high."""
    import cv2
    from shapely import Polygon, union_all

    # twice as large, the middles of the outermost px lie a quarter of a px inside the edge
    large = cv2.resize(
        np.pad(mask.astype(np.uint8), 1), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST
    )
    found, levels = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings: dict[int, tuple[list[Points], list[Points]]] = {}
    for number, contour in enumerate(found):
        parent = int(levels[0][number][3])
        ring = ((contour[:, 0] + 0.5) / 2 - 1) * np.array(pixel)
        if len(ring) > 2:
            shells, holes = rings.setdefault(number if parent < 0 else parent, ([], []))
            (shells if parent < 0 else holes).append(ring)
    areas = [Polygon(one, holes).buffer(0) for shells, holes in rings.values() for one in shells]
    return union_all(areas)


def parts_of(area: Any) -> list[Any]:
    """The polygons of an area."""
    return [part for part in getattr(area, "geoms", [area]) if not part.is_empty]


def check_crossings(polygon: Any, path: Path) -> None:
    """HistoError where an outline crosses itself too often to be mended; estimated from a sample."""
    from shapely import get_coordinates

    points = get_coordinates(polygon)
    count = len(points) - 1
    if count <= SAMPLE:
        return
    starts = np.linspace(0, count - 1, SAMPLE).astype(np.int64)
    a, b = points[starts], points[starts + 1]

    def side(p: Points, q: Points, r: Points) -> Points:
        """On which side of the lines p q [N, 1] the points r [1, N] lie."""
        (px, py), (qx, qy), (rx, ry) = p.T[:, :, None], q.T[:, :, None], r.T[:, None]
        return np.asarray(np.sign((qx - px) * (ry - py) - (qy - py) * (rx - px)))

    parted = side(a, b, a) * side(a, b, b) < 0  # the line of one parts the ends of the other
    crossings = int((parted & parted.T).sum()) / 2
    if crossings >= 3 and crossings * (count / SAMPLE) ** 2 > CROSSINGS:
        raise HistoError(f"{path}: an annotation crosses itself too often to be an outline")
