"""The label of each tile by what the annotations cover, and a sample of the tiles."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.slides.annotations import Annotations, Boxes
from histo.slides.grid import Grid, Places

AT_ONCE = 100_000
"""Tiles that are labelled at a time: each is a polygon of some hundred bytes."""
CENTRE = "centre"
"""PatchCamelyon's rule: a class decides if any of it lies in the centre third of the tile."""


@dataclass(frozen=True)
class LabelRule:
    """How tiles get labels.

    `cover` is the share that a class, or the background, must cover; None is PatchCamelyon's rule.
    `outside` is what tiles outside all annotations are called; None leaves them out.
    """

    cover: float | None
    outside: str | None

    @classmethod
    def parse(cls, cover: str, outside: str | None) -> LabelRule:
        """A share as text, or `centre`; HistoError for anything else."""
        if cover == CENTRE:
            return cls(None, outside)
        try:
            share = float(cover)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise HistoError(
                f"{cover!r} is not a share of a patch",
                f"{{cover}} takes a number above 0 and up to 1, or {CENTRE}",
            )
        return cls(share, outside)


@dataclass(frozen=True)
class Labels:
    """The tiles that have a label: places int32 [N, 2], names [N], and the cover of each (0 to 1)."""

    places: Places
    names: NDArray[np.str_]
    cover: NDArray[np.float64]

    def pick(self, rows: NDArray[np.int64]) -> Labels:
        """Some of the tiles."""
        return Labels(self.places[rows], self.names[rows], self.cover[rows])


def boxes_of(grid: Grid, places: Places, share: float = 1.0) -> Boxes:
    """The squares of tiles, or of their centres: `share` of a side."""
    side = grid.side * grid.scale
    corners = grid.corners(places) + side * (1 - share) / 2
    return np.concatenate([corners, corners + side * share], 1).astype(np.float64)


def label_tiles(grid: Grid, places: Places, found: Annotations, rule: LabelRule) -> Labels:
    """The tiles that get a label by the rule; the others lie on a border, or are left out."""
    parts = [
        _label_some(grid, places[start : start + AT_ONCE], found, rule)
        for start in range(0, max(1, len(places)), AT_ONCE)
    ]
    columns = zip(*((one.places, one.names, one.cover) for one in parts), strict=True)
    return Labels(*map(np.concatenate, columns))


def _label_some(grid: Grid, places: Places, found: Annotations, rule: LabelRule) -> Labels:
    """`label_tiles` of as many as fit into memory as shapely's squares."""
    names = sorted(name for name in found.covers if name)
    share = 1.0 if rule.cover else 1 / 3
    boxes, centres = boxes_of(grid, places), boxes_of(grid, places, share)
    covers = np.stack([found.covers[n](centres) for n in names] or [np.zeros(len(places))], 1)
    ignored = found.covers[""](boxes) if "" in found.covers else np.zeros(len(places))
    best = covers.argmax(1)
    cover = covers[np.arange(len(places)), best]
    free = 1 - np.minimum(1, covers.sum(1) + ignored)
    if rule.cover:
        inside, outside = cover >= rule.cover - 1e-9, free >= rule.cover - 1e-9
    else:
        inside, outside = cover > 1e-9, (ignored <= 1e-9) & (cover <= 1e-9)
    outside &= ~inside & (rule.outside is not None)
    called = np.where(inside, np.array(names or [""])[best], rule.outside or "")
    rows = np.flatnonzero(inside | outside)
    labels = Labels(places, called, np.where(inside, cover, free))
    return labels.pick(rows)


def sample(labels: Labels, most: int | None, seed: int, slide: str) -> Labels:
    """At most so many tiles of each class, drawn by the seed and the slide's name, in their order."""
    if most is None:
        return labels
    digest = hashlib.sha256(f"{seed} {slide}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    kept = []
    for name in np.unique(labels.names):
        rows = np.flatnonzero(labels.names == name)
        kept.append(random.choice(rows, min(most, len(rows)), replace=False))
    return labels.pick(np.sort(np.concatenate(kept))) if kept else labels
