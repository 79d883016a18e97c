"""FROC by Camelyon16's rules: sensitivity over lesions at so many false positives a slide.

Ehteshami Bejnordi et al., 2017, JAMA 318:2199, and the challenge's published evaluation: lesions
nearer than 75 µm are one; isolated tumour cells, up to 200 µm long before that, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.slides.lesions import Lesion

GROWN_UM = 75.0
"""Lesions nearer to each other than this are one: each grows by half of it."""
SINGLE_CELLS_UM = 200.0
"""Lesions of a longest axis below this, and not grown, are isolated tumour cells."""
RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a slide at which the sensitivity is read; the score is its mean over them."""


@dataclass(frozen=True)
class Judged:
    """What the candidates of one slide hit."""

    lesions: int
    """without isolated tumour cells"""
    hits: list[float]
    """for each lesion the highest confidence of a candidate in it, 0 for a missed one"""
    false: list[float]
    """the confidences of candidates outside of all lesions"""


@dataclass(frozen=True)
class Froc:
    """The curve, from the lowest confidence to the highest, and the sensitivity at RATES."""

    false: NDArray[np.float64]
    """false positives a slide"""
    sensitivity: NDArray[np.float64]
    at: tuple[float, ...]

    @property
    def score(self) -> float:
        """The mean sensitivity at RATES: the challenge's score."""
        return float(np.mean(self.at))


def grown_lesions(polygons: Sequence[Any], mpp: float) -> list[tuple[Any, bool]]:
    """Lesions of shapely polygons in level-0 px: grown, joined, without holes; and whether each counts.

    One that does not count is isolated tumour cells.
    """
    from shapely import Polygon, unary_union

    if not len(polygons):
        return []
    union = unary_union([each.buffer(GROWN_UM / 2 / mpp) for each in polygons])
    filled = unary_union([Polygon(part.exterior) for part in getattr(union, "geoms", [union])])
    least = (SINGLE_CELLS_UM + GROWN_UM) / mpp
    parts = sorted(getattr(filled, "geoms", [filled]), key=lambda part: part.bounds)
    return [(part, longest_axis(part) >= least) for part in parts]


def longest_axis(polygon: Any) -> float:
    """The longer axis of the ellipse with the polygon's second moments, as scikit-image has it."""
    x, y = np.asarray(polygon.exterior.coords, np.float64).T
    x, y = x - x.mean(), y - y.mean()
    cross = x[:-1] * y[1:] - x[1:] * y[:-1]
    area = cross.sum() / 2
    if area == 0:
        return 0.0

    def mean(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        """The mean over the area of a product of coordinates, by Green's theorem."""
        terms = a[:-1] * b[1:] + 2 * a[:-1] * b[:-1] + 2 * a[1:] * b[1:] + a[1:] * b[:-1]
        return float((cross * terms).sum() / 24 / area)

    middle = [float(((v[:-1] + v[1:]) * cross).sum() / 6 / area) for v in (x, y)]
    xx, yy = mean(x, x) - middle[0] ** 2, mean(y, y) - middle[1] ** 2
    xy = mean(x, y) - middle[0] * middle[1]
    larger = (xx + yy) / 2 + np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return float(4 * np.sqrt(max(larger, 0)))


def judge(candidates: Sequence[Lesion], lesions: Sequence[tuple[Any, bool]]) -> Judged:
    """What a slide's candidates hit of its grown lesions."""
    from shapely import Point
    from shapely.strtree import STRtree

    best = [0.0] * len(lesions)
    false: list[float] = []
    tree = STRtree([polygon for polygon, _ in lesions])
    for one in candidates:
        hit = tree.query(Point(one.x, one.y), predicate="intersects").tolist()
        if not hit:
            false.append(one.confidence)
        for place in hit:
            best[place] = max(best[place], one.confidence)
    hits = [value for value, (_, counts) in zip(best, lesions, strict=True) if counts]
    return Judged(len(hits), hits, false)


def froc(slides: Sequence[Judged], weights: Sequence[float] | None = None) -> Froc | None:
    """The curve over slides, each counted `weights` times (once by default); None without lesions."""
    times = np.ones(len(slides)) if weights is None else np.asarray(weights, np.float64)
    total = sum(w * slide.lesions for w, slide in zip(times, slides, strict=True))
    if not total:
        return None
    hits, false = (pooled([getattr(s, name) for s in slides], times) for name in ("hits", "false"))
    levels = np.unique(np.concatenate([hits[0], false[0]]))[1:]
    rates = np.append(at_or_above(*false, levels), 0.0) / times.sum()
    found = np.append(at_or_above(*hits, levels), 0.0) / total
    at = np.interp(RATES, rates[::-1], found[::-1])
    return Froc(rates, found, tuple(at.tolist()))


def pooled(
    parts: Sequence[Sequence[float]], times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of all slides, and the weight of each."""
    values = np.array([value for part in parts for value in part], np.float64)
    weights = np.repeat(times, [len(part) for part in parts])
    return values, weights


def at_or_above(
    values: NDArray[np.float64], weights: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The weight of the values at or above each level."""
    order = np.argsort(values, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    return np.asarray(below[-1] - below[np.searchsorted(values[order], levels, "left")])
