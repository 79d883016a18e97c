"""Attention maps judged: how much of them falls inside the centre that the labels speak of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.report.intervals import Figures, Floats, as_json, intervals
from histo.run.gradcam import GradCam

Maps = NDArray[np.float64]
CENTRE = 32
"""Side in px of PatchCamelyon's centre: a patch is tumour where this part of it holds some."""


def centre_of(side: int, resized: bool) -> int:
    """The side in px of the centre that labels speak of; 0 where nobody knows of one.

    32 px is PatchCamelyon's rule, and believed of patches like its own: 96 px, or cropped to 64
    and more of them. Other data sets: the setting `centre` of interpret.
    """
    return CENTRE if 64 <= side <= 96 and not resized else 0


def enlarge(maps: Maps, side: int) -> Maps:
    """Maps [N, h, w] to [N, side, side], bilinear, each cell's value at the middle of its place."""
    rows, columns = (_weights(cells, side) for cells in maps.shape[1:])
    return np.asarray(rows @ maps @ columns.T)


def _weights(cells: int, side: int) -> Maps:
    """How much of each cell there is at each px, [side, cells]."""
    place = (np.arange(side) + 0.5) * cells / side - 0.5
    return np.stack([np.interp(place, np.arange(cells), each) for each in np.eye(cells)], 1)


def share_inside(maps: Maps, side: int, centre: int) -> NDArray[np.float64]:
    """The share of each map [N, h, w], enlarged to the patch, inside its centre; nan if empty."""
    large = enlarge(maps, side)
    first = (side - centre) // 2
    inside = large[:, first : first + centre, first : first + centre].sum((1, 2))
    with np.errstate(invalid="ignore"):
        return np.asarray(inside / large.sum((1, 2)))


def share_in_centre(found: GradCam, centre: int, groups: Sequence[str] | None) -> dict[str, Any]:
    """The mean share inside the centre over the patches drawn at random, by class called.

    `groups` [N] are those of the maps' patches, for the intervals. Maps without a trace of
    evidence are left out.
    """
    shares = share_inside(found.maps, found.side, centre)
    rows = np.flatnonzero(found.drawn & np.isfinite(shares)).tolist()
    classes = {}
    for name in sorted(set(found.called)):
        mine = [row for row in rows if found.called[row] == name]
        if mine:
            units = [groups[row] for row in mine] if groups else None
            classes[name] = _mean(shares[mine], units)
    return {
        "patches": len(rows),
        "patch": found.side,
        "centre": centre,
        "even": (centre / found.side) ** 2,
        "classes": classes,
    }


def _mean(shares: NDArray[np.float64], groups: Sequence[str] | None) -> dict[str, Any]:
    """Patches, their mean share, and its interval."""

    def figures(weights: Floats) -> Figures:
        return {"share": weights @ shares / weights.sum(-1)}

    ends = intervals(figures, len(shares), groups)["share"]
    return {"patches": len(shares), "share": float(shares.mean()), "interval": as_json(ends)}
