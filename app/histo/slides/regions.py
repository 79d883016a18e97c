"""Cells of one call merged into regions: polygons with holes, and their areas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.slides.heat import Heat


@dataclass(frozen=True)
class Region:
    """Neighbouring cells of one class: their outline in level-0 px, and what they hold."""

    code: int
    rings: list[list[tuple[float, float]]]
    """the outer ring first, then holes; each closed"""
    cells: int
    highest: float
    """the class's largest probability in it"""
    mean: float


def regions_of(heat: Heat, code: int) -> Iterator[Region]:
    """The regions called a class, the one with most cells first.

    Cells that share a side are one region; those that touch at a corner are not, as the outline
    would cross itself.
    """
    import cv2

    called = heat.called == code
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        called.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    sizes = np.asarray(stats[1:, cv2.CC_STAT_AREA])
    for label in np.argsort(-sizes, kind="stable") + 1:
        left, top, width, height = (int(value) for value in stats[label, :4])
        part = (slice(top, top + height), slice(left, left + width))
        inside = np.asarray(labels)[part] == label
        values = heat.of(code)[part][inside]
        for rings in rings_of(inside):
            corners = [[heat.corner(x + left, y + top) for x, y in ring] for ring in rings]
            yield Region(
                code, corners, int(inside.sum()), float(values.max()), float(values.mean())
            )


def count_regions(heat: Heat, code: int) -> int:
    """How many regions `regions_of` gives."""
    import cv2

    called = (heat.called == code).astype(np.uint8)
    return int(cv2.connectedComponents(called, connectivity=4)[0]) - 1


def rings_of(inside: NDArray[np.bool_]) -> Iterator[list[list[tuple[float, float]]]]:
    """The outline of connected cells in cell coordinates: the outer ring, then holes."""
    from shapely import box, unary_union

    runs: list[Any] = []
    for row, line in enumerate(inside):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        runs += [box(a, row, b, row + 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    union = unary_union(runs)
    parts: Sequence[Any] = getattr(union, "geoms", [union])
    for polygon in parts:
        plain = polygon.simplify(0)
        yield [list(ring.coords) for ring in (plain.exterior, *plain.interiors)]
