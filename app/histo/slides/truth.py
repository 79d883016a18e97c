"""What is known of a slide: its lesions as a pathologist drew them, and the tiles they hold."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.run.positive import find_positive
from histo.slides.annotations import class_of, reader_of
from histo.slides.label_mask import LabelMask, read_mask
from histo.slides.outlines import area_of_mask, parts_of
from histo.slides.qupath import read_geojson

LONGEST = 8192
"""Most px a side of a mask whose outlines are drawn; a larger one is made smaller."""


@dataclass(frozen=True)
class Truth:
    """The lesions of a slide, shapely polygons in level-0 px; an empty list where it has none."""

    lesions: list[Any]
    names: set[str]
    """of all annotations that are there"""
    only: int | None = None
    """the value of a mask that has one, where nothing says which class that is"""


def read_truth(
    path: Path,
    positive: str,
    size: tuple[int, int],
    bounds: tuple[int, int],
    classes: Mapping[str, str],
    mpp: float,
) -> Truth:
    """The lesions of a slide of `size` px of `mpp` µm: of the positive class, or a name that obviously is positive.

    `classes` maps names of annotations, or values of a mask, to classes; others are then not read. A
    mask of one value needs none. QuPath's coordinates begin at the slide's `bounds`. What is marked
    to be ignored, or as Camelyon16's `_2`, is taken out of the lesions. Raises HistoError.
    """
    from shapely import union_all
    from shapely.affinity import translate

    reader = reader_of(path)
    if reader is None:
        return mask_truth(read_mask(path, size, mpp), path, positive, classes)
    outlines = list(reader(path))
    ignored = union_all([one.polygon for one in outlines if class_of(one.name, classes) == ""])
    moved = bounds if reader is read_geojson else (0, 0)
    lesions = [
        translate(one.polygon.difference(ignored), *moved)
        for one in outlines
        if is_lesion(class_of(one.name, classes), positive)
    ]
    return Truth([one for one in lesions if one.area], {one.name for one in outlines})


def mask_truth(mask: LabelMask, path: Path, positive: str, classes: Mapping[str, str]) -> Truth:
    """The lesions in a mask: the pieces of its values of the positive class, or of its only value.

    HistoError where it is not said which values these are.
    """
    import cv2

    names, given = [str(value) for value in mask.present], bool(classes)
    only = mask.present[0] if len(names) == 1 and not classes else None
    if not classes and names and not any(is_lesion(name, positive) for name in names):
        # Where the positive class is called `1`, values are the names of classes.
        if len(names) > 1 or positive.isdecimal():
            raise HistoError(
                f"{path} has the values {', '.join(names[:8])}, none of which is called {positive!r}",
                f"give {{classes}} {names[0]}={positive} and so on, for each value that has a class",
            )
        classes = {names[0]: positive}
    wanted = [v for v in mask.present if is_lesion(class_of(str(v), classes), positive)]
    inside = np.isin(mask.values, wanted)
    step = max(1.0, max(inside.shape) / LONGEST)
    if step > 1:  # outlines of a few µm are fine enough
        shape = (round(inside.shape[1] / step), round(inside.shape[0] / step))
        small = cv2.resize(inside.astype(np.float32), shape, interpolation=cv2.INTER_AREA)
        inside = np.asarray(small >= 0.5)
    rows, columns = inside.shape
    height, width = mask.values.shape
    pixel = mask.pixel[0] * width / columns, mask.pixel[1] * height / rows
    lesions = parts_of(area_of_mask(inside, pixel))
    return Truth(lesions, {positive} if wanted and not given else set(names), only)


def check_same_value(truths: Mapping[Path, Truth], positive: str) -> None:
    """HistoError where masks of one value each have different ones: not all can be the positive class."""
    values = {truth.only: path for path, truth in truths.items() if truth.only is not None}
    if len(values) > 1:
        (first, one), (second, other) = sorted(values.items())[:2]
        raise HistoError(
            f"{one.name} has only the value {first}, {other.name} only {second}: which of them is "
            f"{positive!r} is not said",
            f"give {{classes}} {first}={positive} and so on, for each value that has a class",
        )


def is_lesion(name: str | None, positive: str) -> bool:
    """Whether annotations of this name are of the positive class; None and "" are not."""
    if not name:
        return False
    # beside a name that says nothing, only one that itself says positive is found
    return name.casefold() == positive.casefold() or find_positive("other", name) == name


@dataclass(frozen=True)
class TileTruth:
    """A slide's tiles: whether the middle of each is in a lesion, and its probability."""

    inside: NDArray[np.bool_]
    scores: NDArray[np.float64]


def tile_scores(tiles: Path, positive: str) -> NDArray[np.float64]:
    """x, y, width and the positive class's probability of each row of tiles.csv, float64 [N, 4]."""
    try:
        with tiles.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            columns = [header.index(name) for name in ("x", "y", "width", f"p_{positive}")]
            table = np.array([[float(row[c]) for c in columns] for row in rows], np.float64)
    except (ValueError, IndexError, csv.Error):
        raise HistoError(
            f"{tiles} is damaged", "remove its folder and map the slide again"
        ) from None
    return table.reshape(-1, 4)


def tile_truth(table: NDArray[np.float64], lesions: Sequence[Any]) -> TileTruth:
    """Which tiles of `tile_scores` have their middle in a lesion."""
    from shapely import contains_xy, prepare, union_all

    x, y, width, scores = table.T
    if not len(lesions):
        return TileTruth(np.zeros(len(x), bool), scores)
    union = union_all(list(lesions))
    prepare(union)
    return TileTruth(contains_xy(union, x + width / 2, y + width / 2), scores)
