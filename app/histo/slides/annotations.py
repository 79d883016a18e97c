"""What was drawn on a slide, from any format, and how much of each tile it covers.

Another format is a reader that yields outlines (`qupath.py`, `asap.py`), and its suffix in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.slides.asap import read_asap
from histo.slides.dicom import name_of
from histo.slides.label_mask import LabelMask, read_mask, read_values
from histo.slides.outlines import Outline
from histo.slides.qupath import read_geojson

Reader = Callable[..., Iterator[Outline]]
"""Takes a file, and a list for the names of what has no area."""
READERS: Mapping[str, Reader] = {
    ".geojson": read_geojson,
    ".geojson.gz": read_geojson,
    ".json": read_geojson,
    ".json.gz": read_geojson,
    ".xml": read_asap,
}
MASKS = (".png", ".tif", ".tiff")
MASK_NAMES = ("", "_mask", "_labels")
"""How a mask's name may go on after the slide's."""
SHARED = 0.05
"""Classes overlap where they share more than this of the smaller one's area."""
CLASSES = 20
"""So many classes are compared with each other."""
Boxes = NDArray[np.float64]
"""Squares in level-0 px, float64 [N, 4]: x0, y0, x1, y1."""
Cover = Callable[[Boxes], NDArray[np.float64]]
"""The share (0 to 1) of each box that a class covers."""


@dataclass(frozen=True)
class Annotations:
    """The areas of a slide by class; the class of an empty name is left out of everything."""

    covers: Mapping[str, Cover]
    names: frozenset[str]
    """as the file has them, before any mapping"""
    mended: int = 0
    """how many outlines crossed themselves and were mended"""
    outside: int = 0
    """how many outlines of a class lie outside the slide"""
    flat: int = 0
    """how many annotations of a class have no area: points and lines"""
    shared: tuple[str, str] | None = None
    """two classes whose areas overlap: a patch in both can have one label only"""


def find_annotation(folder: Path, slide: Path) -> Path | None:
    """The file of a slide in a folder: of the slide's name, with or without its suffix."""
    endings = [*READERS, *(f"{more}{suffix}" for more in MASK_NAMES for suffix in MASKS)]
    paths = [
        folder / f"{name}{ending}" for name in (name_of(slide), slide.name) for ending in endings
    ]
    return next((p for p in paths if p.is_file() and p.resolve() != slide.resolve()), None)


def read_annotations(
    path: Path,
    size: tuple[int, int],
    bounds: tuple[int, int],
    classes: Mapping[str, str],
    mpp: float,
) -> Annotations:
    """The annotations of a slide of `size` level-0 px of `mpp` µm; `classes` maps names to classes.

    With a mapping, names that it does not have are not read. QuPath's coordinates begin at `bounds`.
    Raises HistoError.
    """

    def is_used(name: str) -> bool:
        return bool(class_of(name, classes))

    reader = reader_of(path)
    if reader is None:
        return _of_mask(read_mask(path, size, mpp), classes)
    flat: list[str] = []
    outlines = list(reader(path, flat))
    if reader is read_geojson:
        outlines = [_moved(outline, bounds) for outline in outlines]
    return replace(
        _of_outlines(outlines, classes),
        outside=sum(_is_outside(outline, size) for outline in outlines if is_used(outline.name)),
        flat=sum(map(is_used, flat)),
    )


def reader_of(path: Path) -> Reader | None:
    """The reader of a file of outlines; None for a mask."""
    name = path.name.lower()
    return next((read for ending, read in READERS.items() if name.endswith(ending)), None)


def names_in(path: Path) -> set[str]:
    """The names of the annotations in a file, the values of a mask as text. Raises HistoError."""
    if reader := reader_of(path):
        return {outline.name for outline in reader(path)}
    return {str(value) for value in np.unique(read_values(path)) if value}


def class_of(name: str, classes: Mapping[str, str]) -> str | None:
    """The class of an annotation; None where the mapping leaves it out, "" where its area is ignored."""
    if not name or name.endswith("*"):  # QuPath's own mark of what is to be ignored
        return ""
    return classes.get(name) if classes else name


def _moved(outline: Outline, bounds: tuple[int, int]) -> Outline:
    from shapely.affinity import translate

    return Outline(outline.name, translate(outline.polygon, *bounds), outline.mended)


def _is_outside(outline: Outline, size: tuple[int, int]) -> bool:
    """Whether no px of a slide of this width and height is in the outline's box."""
    x0, y0, x1, y1 = outline.polygon.bounds
    return bool(x1 <= 0 or y1 <= 0 or x0 >= size[0] or y0 >= size[1])


def _of_outlines(outlines: Iterable[Outline], classes: Mapping[str, str]) -> Annotations:
    """One area a class: the union of its outlines, less those that are ignored."""
    from shapely import prepare, union_all

    parts: dict[str, list[Any]] = {}
    names, mended = set(), 0
    for outline in outlines:
        names.add(outline.name)
        mended += outline.mended
        if (name := class_of(outline.name, classes)) is not None:
            parts.setdefault(name, []).append(outline.polygon)
    areas = {name: union_all(polygons) for name, polygons in parts.items()}
    if ignored := areas.get(""):
        areas = {
            name: area if not name else area.difference(ignored) for name, area in areas.items()
        }
    for area in areas.values():
        prepare(area)
    return Annotations(
        {n: _area_cover(a) for n, a in areas.items()},
        frozenset(names),
        mended,
        shared=_overlapping({name: area for name, area in areas.items() if name}),
    )


def _overlapping(areas: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first two classes that share more of their areas than borders drawn by hand do."""
    for one, other in combinations(sorted(areas)[:CLASSES], 2):
        first, second = areas[one], areas[other]
        if first.intersects(second):
            least = min(first.area, second.area)
            if first.intersection(second).area > SHARED * least:
                return one, other
    return None


def _area_cover(area: Any) -> Cover:
    def cover(boxes: Boxes) -> NDArray[np.float64]:
        """Exact; only the boxes on the border are intersected."""
        from shapely import area as area_of
        from shapely import box, contains, intersection, intersects

        squares = box(*boxes.T)
        found = np.asarray(contains(area, squares), np.float64)
        border = np.flatnonzero(intersects(area, squares) & (found == 0))
        found[border] = area_of(intersection(area, squares[border])) / area_of(squares[border])
        return found

    return cover


def _of_mask(mask: LabelMask, classes: Mapping[str, str]) -> Annotations:
    """The classes of a mask: its values as text, or as the mapping names them."""
    values: dict[str, list[int]] = {}
    for value in mask.present:
        if (name := class_of(str(value), classes)) is not None:
            values.setdefault(name, []).append(value)

    def cover_of(several: list[int]) -> Cover:
        def cover(boxes: Boxes) -> NDArray[np.float64]:
            found = np.sum([mask.cover(value, boxes) for value in several], axis=0)
            return np.asarray(found, np.float64)

        return cover

    covers = {name: cover_of(several) for name, several in values.items()}
    return Annotations(covers, frozenset(map(str, mask.present)))
