"""QuPath's GeoJSON: a FeatureCollection, a list of features or one feature, also as .gz."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histo.errors import HistoError
from histo.files.limits import read_bytes
from histo.slides.outlines import ANNOTATION_BYTES, Outline, make_outline

NO_ANNOTATIONS = ("detection", "cell", "tile", "tmacore", "root")
"""Objects of QuPath that nobody drew as an annotation."""
AREAS = ("Polygon", "MultiPolygon")


def read_geojson(path: Path, flat: list[str] | None = None) -> Iterator[Outline]:
    """The areas in a file, in its own coordinates, which begin at the slide's bounds.

    Points and lines have no area and are left out; their names are added to `flat`. Raises HistoError.
    """
    data = read_bytes(path, ANNOTATION_BYTES)
    with np.errstate(invalid="ignore", over="ignore"):  # shapely's, of numbers that are none
        yield from _outlines_of(data, path, [] if flat is None else flat)


def _outlines_of(data: bytes, path: Path, flat: list[str]) -> Iterator[Outline]:
    """What `read_geojson` gives, from the bytes of the file."""
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        found = json.loads(_unpacked(data, path) if data[:2] == b"\x1f\x8b" else data)
        for feature in _features(found):
            properties = feature.get("properties") or {}
            geometry = feature["geometry"] or {}
            if kind_of(feature, properties) in NO_ANNOTATIONS:
                continue
            name = class_name(properties.get("classification")) or properties.get("name")
            outline = None
            if geometry.get("type") in AREAS:
                outline = make_outline(str(name or ""), shape(geometry), path)
            if outline:
                yield outline
            else:
                flat.append(str(name or ""))
    except (
        *(OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError),
        *(IndexError, RecursionError, OverflowError, ShapelyError),
    ):
        raise HistoError(f"{path} is not GeoJSON with annotations as QuPath exports it") from None


def kind_of(feature: Any, properties: Any) -> str:
    """What an object is, in small letters: `tmacore`; QuPath 0.3 and 0.2 have it in other places."""
    found = properties.get("objectType") or properties.get("object_type") or feature.get("id")
    plain = str(found).replace("_", "").casefold()
    return plain.removeprefix("path").removesuffix("object")


def class_name(found: Any) -> str:
    """The name of a classification as QuPath shows it, its parts joined: `Tumor: Positive`."""
    if not found or isinstance(found, str):
        return found or ""
    parts = found.get("names") or [found.get("name") or ""]
    parent = class_name(found.get("parentClass"))  # QuPath 0.3 and before
    return ": ".join([*([parent] if parent else []), *map(str, parts)])


def _features(found: Any) -> Iterator[Any]:
    """The features of a collection, a bare list, or a single feature, and the children of each."""
    top = found.get("features", [found]) if isinstance(found, dict) else found
    waiting = deque(top)
    while waiting:
        yield (feature := waiting.popleft())
        waiting.extend((feature.get("properties") or {}).get("childObjects") or ())


def _unpacked(data: bytes, path: Path) -> bytes:
    """The content of a gzip file, within the same bound."""
    most = ANNOTATION_BYTES.value
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(most + 1)
    ANNOTATION_BYTES.check(len(found), str(path))
    return found
