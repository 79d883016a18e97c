"""Outlines of areas on a slide: bounded, with invalid rings mended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histo.errors import HistoError
from histo.files.limits import MB, Limit

ANNOTATION_BYTES = Limit("HISTO_MAX_ANNOTATION_BYTES", 128 * MB, "bytes")
MANY = 10_000
"""Outlines of more points are simplified, by half a px of level 0 at most."""
FARTHEST = 1e8
"""No slide has so many px a side."""
CROSSINGS = 100_000
"""An outline that crosses itself about so often is refused: mending it would take gigabytes."""
SAMPLE = 200


@dataclass(frozen=True)
class Outline:
    """An area: the name of its class, a shapely polygon, and whether its rings had to be mended."""

    name: str
    polygon: Any
    mended: bool = False


def make_outline(name: str, polygon: Any, path: Path) -> Outline | None:
    """An outline of a valid polygon; None where it has no area, ValueError where it is out of range."""
    from shapely import get_num_coordinates, make_valid

    if not all(math.isfinite(v) and abs(v) < FARTHEST for v in polygon.bounds):
        raise ValueError("no slide is so large")
    if get_num_coordinates(polygon) > MANY:
        polygon = polygon.simplify(0.5, preserve_topology=False)
    mended = not polygon.is_valid
    if mended:
        check_crossings(polygon, path)
        polygon = make_valid(polygon)
    return Outline(name, polygon, mended) if polygon.area else None


def check_crossings(polygon: Any, path: Path) -> None:
    """HistoError where an outline crosses itself too often to be mended; found by a sample."""
    from shapely import STRtree, get_coordinates, linestrings

    points = get_coordinates(polygon)
    count = len(points) - 1
    if count <= 2 * SAMPLE:
        return
    segments = linestrings(np.stack([points[:-1], points[1:]], 1))
    step = max(1, count // SAMPLE)
    sample = segments[::step]
    hits = STRtree(segments).query(sample, predicate="crosses").shape[1]
    if hits * step / 2 > CROSSINGS:
        raise HistoError(f"{path}: an annotation crosses itself too often to be an outline")
