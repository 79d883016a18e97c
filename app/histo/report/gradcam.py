"""Grad-CAM maps measured: how much of them lies inside the centre that decides the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.report.intervals import Interval, intervals
from histo.report.weighted import Floats, Values
from histo.run.gradcam import GradCam

Maps = NDArray[np.float64]
CENTRE = 32
"""Side in px of PatchCamelyon's centre: a patch is tumour if this part of it holds tumour."""


@dataclass(frozen=True)
class ClassShare:
    """The mean share inside the centre, of the patches called as one class."""

    patches: int
    share: float
    interval: Interval


@dataclass(frozen=True)
class CentreShare:
    """The share of Grad-CAM inside the centre, a mean over patches drawn at random."""

    patches: int
    patch: int
    """side in px"""
    centre: int
    """side in px"""
    even: float
    """the share that a uniform map would have: that of the area"""
    classes: Mapping[str, ClassShare]
    """by the class called"""

    def as_dict(self) -> dict[str, Any]:
        """As in metrics.json."""
        return asdict(self)


def centre_of(side: int, resized: bool) -> int:
    """The side in px of the centre that decides the label of a patch; 0 where none is known.

    32 px is PatchCamelyon's rule. It is assumed for patches like PatchCamelyon's: of 96 px, or
    cropped to no less than 64. For other data sets: the setting `centre` of interpret.
    """
    return CENTRE if 64 <= side <= 96 and not resized else 0


def enlarge(maps: Maps, side: int) -> Maps:
    """Maps [N, h, w] to [N, side, side], bilinear, each cell's value at the middle of its place."""
    rows, columns = (_weights(cells, side) for cells in maps.shape[1:])
    return np.asarray(rows @ maps @ columns.T)


def _weights(cells: int, side: int) -> Maps:
    """The weight of each cell at each px, [side, cells]."""
    place = (np.arange(side) + 0.5) * cells / side - 0.5
    return np.stack([np.interp(place, np.arange(cells), each) for each in np.eye(cells)], 1)


def share_inside(maps: Maps, side: int, centre: int) -> NDArray[np.float64]:
    """The share of each map [N, h, w], enlarged to the patch, inside its centre; nan if empty."""
    large = enlarge(maps, side)
    first = (side - centre) // 2
    inside = large[:, first : first + centre, first : first + centre].sum((1, 2))
    with np.errstate(invalid="ignore"):
        return np.asarray(inside / large.sum((1, 2)))


def share_in_centre(found: GradCam, centre: int, groups: Sequence[str] | None) -> CentreShare:
    """The mean share inside the centre over the patches drawn at random, by class called.

    `groups` [N] are those of the maps' patches, for the intervals. Empty maps are left out.
    """
    shares = share_inside(found.maps, found.side, centre)
    rows = np.flatnonzero(found.drawn & np.isfinite(shares)).tolist()
    classes = {}
    for name in sorted(set(found.called)):
        mine = [row for row in rows if found.called[row] == name]
        if mine:
            units = [groups[row] for row in mine] if groups else None
            classes[name] = _mean(shares[mine], units)
    return CentreShare(len(rows), found.side, centre, (centre / found.side) ** 2, classes)


def _mean(shares: NDArray[np.float64], groups: Sequence[str] | None) -> ClassShare:
    """Patches, their mean share, and its interval."""

    def mean(weights: Floats) -> Values:
        return {"share": weights @ shares / weights.sum(-1)}

    ends = intervals(mean, len(shares), groups)["share"]
    return ClassShare(len(shares), float(shares.mean()), ends)
