"""ASAP's XML: annotations of points in level-0 px, in groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from histo.errors import HistoError
from histo.files.limits import read_bytes
from histo.slides.outlines import ANNOTATION_BYTES, Outline, make_outline

CAMELYON16 = {"Tumor": "tumor", "_0": "tumor", "_1": "tumor", "_2": ""}
"""Camelyon16's groups: the first three are tumour, `_2` was cut out of it again."""
NO_AREAS = ("Dot", "PointSet", "Measurement")
"""Annotations whose points are no outline."""


@dataclass
class _Drawn:
    """An annotation while it is read: the points are numbers as text, x and y in turn."""

    name: str
    group: str
    points: list[tuple[float, float]] = field(default_factory=list)
    area: bool = True


def read_asap(path: Path, flat: list[str] | None = None) -> Iterator[Outline]:
    """The areas in a file, in level-0 px, under the name of their group; HistoError where it is none.

    Camelyon16's groups get its classes: an empty name is an area that is left out. Points and lines
    have no area and are left out; their names are added to `flat`.
    """
    flat = [] if flat is None else flat
    from shapely.errors import ShapelyError
    from shapely.geometry import Polygon

    try:
        for drawn in _read_xml(path):
            group = drawn.group if drawn.group not in ("", "None") else drawn.name
            name = CAMELYON16.get(group, group)
            outline = None
            if drawn.area and len(drawn.points) >= 3:
                outline = make_outline(name, Polygon(drawn.points), path)
            if outline:
                yield outline
            else:
                flat.append(name)
    except (ValueError, KeyError, ShapelyError):
        raise _no_xml(path) from None


def _read_xml(path: Path) -> list[_Drawn]:
    """The annotations of a file, by expat, which holds no tree: nesting costs nothing."""
    from xml.parsers.expat import ExpatError, ParserCreate

    data = read_bytes(path, ANNOTATION_BYTES)
    found: list[_Drawn] = []

    def start(tag: str, values: dict[str, str]) -> None:
        if tag == "Annotation":
            found.append(_Drawn(values.get("Name", ""), values.get("PartOfGroup", "")))
            found[-1].area = values.get("Type") not in NO_AREAS
        elif tag == "Coordinate" and found:
            point = float(values["X"]), float(values["Y"])
            if not all(map(math.isfinite, point)):
                raise ValueError(point)
            found[-1].points.append(point)

    def refuse(*_: object) -> None:
        raise HistoError(f"{path} declares a document type or entities, which ASAP never does")

    parser = ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (ExpatError, LookupError):  # not XML, or of an encoding that there is not
        raise _no_xml(path) from None
    return found


def _no_xml(path: Path) -> HistoError:
    return HistoError(f"{path} is not XML with annotations as ASAP writes it")
