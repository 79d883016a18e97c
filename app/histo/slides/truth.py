"""What is known of a slide: its lesions as a pathologist drew them, and the tiles they hold."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.run.positive import find_positive
from histo.slides.annotations import class_of, reader_of
from histo.slides.qupath import read_geojson


@dataclass(frozen=True)
class Truth:
    """The lesions of a slide, shapely polygons in level-0 px; an empty list where it has none."""

    lesions: list[Any]
    names: set[str]
    """of all annotations that are there"""


def read_truth(path: Path, positive: str, bounds: tuple[int, int]) -> Truth:
    """The lesions that were drawn: of the positive class's name, or one that obviously is positive.

    QuPath's coordinates begin at the slide's `bounds`. What is marked to be ignored, or as
    Camelyon16's `_2`, is taken out of them. HistoError for a mask.
    """
    from shapely import union_all
    from shapely.affinity import translate

    reader = reader_of(path)
    if reader is None:
        raise HistoError(f"{path} is a mask: slides are judged by outlines (GeoJSON or ASAP's XML)")
    outlines = list(reader(path))
    ignored = union_all([one.polygon for one in outlines if class_of(one.name, {}) == ""])
    moved = bounds if reader is read_geojson else (0, 0)
    lesions = [
        translate(one.polygon.difference(ignored), *moved)
        for one in outlines
        if is_lesion(one.name, positive)
    ]
    return Truth([one for one in lesions if one.area], {one.name for one in outlines})


def is_lesion(name: str, positive: str) -> bool:
    """Whether annotations of this name are of the positive class."""
    # beside a name that says nothing, only one that itself says positive is found
    return name.casefold() == positive.casefold() or find_positive("other", name) == name


@dataclass(frozen=True)
class TileTruth:
    """A slide's tiles: whether the middle of each is in a lesion, and its probability."""

    inside: NDArray[np.bool_]
    scores: NDArray[np.float64]


def tile_truth(tiles: Path, positive: str, lesions: Sequence[Any]) -> TileTruth:
    """Read tiles.csv of a slide's map and find the tiles whose middle is in a lesion."""
    from shapely import contains_xy, prepare, union_all

    with tiles.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        columns = [header.index(name) for name in ("x", "y", "width", f"p_{positive}")]
        table = np.array([[float(row[c]) for c in columns] for row in rows], np.float64)
    x, y, width, scores = table.reshape(-1, 4).T
    if not len(lesions):
        return TileTruth(np.zeros(len(x), bool), scores)
    union = union_all(list(lesions))
    prepare(union)
    return TileTruth(contains_xy(union, x + width / 2, y + width / 2), scores)
